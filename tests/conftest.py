"""Which tests run. Those marked `matrix` start whole jobs of several processes and take minutes together: a plain `pytest` runs a
quarter of them, chosen by the commit, so that a run can be had again and a few commits run them all; `--all`, or naming files,
runs every one."""

import subprocess
import zlib
from pathlib import Path

import pytest

PART = 4


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help=f"every test marked matrix, not one of {PART}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.option.all or config.args_source == pytest.Config.ArgsSource.ARGS:
        return
    seed = commit()
    left = [item for item in items if item.get_closest_marker("matrix") and not is_chosen(item.nodeid, seed)]
    config.hook.pytest_deselected(items=left)
    items[:] = [item for item in items if item not in set(left)]


def pytest_report_header() -> str:
    return f"matrix: one test of {PART}, chosen by commit {commit()[:10]}; every one with --all"


def is_chosen(nodeid: str, seed: str) -> bool:
    return zlib.crc32(f"{seed} {nodeid}".encode()) % PART == 0


def commit() -> str:
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True)
    return done.stdout.strip() or "none"
