"""Which tests run. Those marked `matrix` start whole jobs of several processes and take many minutes together: a plain `pytest`
runs them last, in an order chosen by the commit, until MATRIX_S after its start, so that a few commits run them all; `--all`, or
naming files, runs every one."""

import subprocess
import time
import zlib
from pathlib import Path

import pytest

MATRIX_S = 640
BEGAN = time.monotonic()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help=f"every test marked matrix, also after {MATRIX_S} s")


def runs_all(config: pytest.Config) -> bool:
    return config.option.all or config.args_source == pytest.Config.ArgsSource.ARGS


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not runs_all(config):
        seed = commit()
        items.sort(key=lambda item: turn(seed, item) if is_matrix(item) else (-1, -1))


def pytest_runtest_setup(item: pytest.Item) -> None:
    if is_matrix(item) and not runs_all(item.config) and time.monotonic() - BEGAN > MATRIX_S:
        pytest.skip("matrix: not with this commit, its time is over")


def pytest_report_header() -> str:
    return f"matrix: in the order of commit {commit()[:10]}, for {MATRIX_S} s; every one with --all"


def turn(seed: str, item: pytest.Item) -> tuple[int, int]:
    """Modules stay together, since their tests share servers."""
    module = item.nodeid.partition("::")[0]
    return zlib.crc32(f"{seed} {module}".encode()), zlib.crc32(f"{seed} {item.nodeid}".encode())


def is_matrix(item: pytest.Item) -> bool:
    return item.get_closest_marker("matrix") is not None


def commit() -> str:
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True)
    return done.stdout.strip() or "none"
