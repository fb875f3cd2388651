"""Which tests run, and which may be skipped.

Those marked `matrix` start whole jobs of several processes and take long: a plain `pytest` leaves them out; `--all`,
`-m` or naming files brings them. With `--no-missing`, as .ci/run says it, a test may only be skipped for one of the reasons in
HONEST: what a missing program or package skips has failed.
"""

import os
from typing import Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "2")  # else commands that train take what the load of the moment leaves
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

HONEST = (
    "needs a GPU",
    "needs no GPU",
    "not as root",
    "not permitted here",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="also the tests marked matrix")
    parser.addoption("--no-missing", action="store_true", help="what is skipped for a missing program or package fails")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
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
