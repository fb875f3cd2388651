"""Which tests run, and which may be skipped.

Those marked `matrix` start whole jobs of several processes and take long: a plain `pytest` leaves them out; `--all`,
`-m` or naming files brings them. With `--no-missing`, as .ci/run says it, a test may only be skipped for one of the reasons in
HONEST: what a missing program or package skips has failed.
"""

import os
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # else commands that train take what the load of the moment leaves
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

HONEST = (
    "needs a GPU",
    "needs no GPU",
    "not as root",
    "not permitted here",
)


LONGEST = (
    "test_docs.py",
    "stages/training/test_deepspeed.py",
    "stages/training/test_cluster.py",
    "stages/training/test_stop.py",
    "test_equal_budget.py",
    "test_recipes.py",
    "test_cluster_lines.py",
    "serve/test_http_process.py",
    "serve/test_http_openai.py",
    "test_gpu_script.py",
    "folder/test_making.py",
    "stages/nets/test_contract.py",
    "test_two_nodes.py",
    "test_differential.py",
    "test_surface.py",
    "serve/test_soak.py",
    "cascade/test_bulk.py",
    "commands/test_launch.py",
    "stages/training/test_start.py",
    "judge/test_sweep.py",
)  # files that take minutes, in this order before all others: one that began last would be waited for by idle workers
TESTS = Path(__file__).parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="also the tests marked matrix")
    parser.addoption("--no-missing", action="store_true", help="what is skipped for a missing program or package fails")


def pytest_configure(config: pytest.Config) -> None:
    config.option.loadscopereorder = False  # else xdist begins with the files that have most tests, long or short


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    places = {TESTS / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))
    for item in items:
        if item.get_closest_marker("alone") and not item.get_closest_marker("matrix"):
            raise pytest.UsageError(
                f"{item.nodeid}: runs alone, so it is of the matrix, too; mark it so, else it runs twice"
            )
    if not runs_all(config):
        left_out = [item for item in items if item.get_closest_marker("matrix")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def runs_all(config: pytest.Config) -> bool:
    return config.option.all or config.option.markexpr or config.args_source == pytest.Config.ArgsSource.ARGS


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    return judged((yield), item.config)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Any:
    return judged((yield), collector.config)


def judged(report: Any, config: pytest.Config) -> Any:
    """The report of a test or a module; under --no-missing a skip without an honest reason is a failure."""
    if config.option.no_missing and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if not reason.startswith(HONEST):
            report.outcome, report.longrepr = "failed", f"--no-missing: was skipped ({reason})"
    return report
