"""Cores that are left: by affinity, by quota, by what others do."""

import os
import subprocess
import sys

import pytest

from data.cpus import Use, allowed, cores, fitting, quota


@pytest.fixture
def busy():
    """As many busy processes as there are cores."""
    started = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in cores()]
    yield
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.usefixtures("busy")
def test_busy_cores_are_seen_and_leave_one_thread():
    others = Use.now().others()
    assert others > 0.5 * len(cores())
    assert fitting(len(cores()), len(cores())) == 1


def test_our_own_work_is_not_others():
    before, own = Use.now(), os.times()
    while os.times().user - own.user < 0.5:
        pass
    used = Use.now()
    assert used.own_s - before.own_s >= 0.5


@pytest.mark.parametrize(
    ("num", "others", "threads"),
    [(2, 0.0, 2), (2, 0.3, 2), (2, 1.0, 1), (2, 2.0, 1), (16, 3.4, 13), (1, 0.0, 1), (4, 9.0, 1)],
)
def test_each_thread_has_a_core(num, others, threads):
    assert fitting(num, others) == threads


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({"cpu.max": "max 100000\n"}, float("inf")),
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, float("inf")),
        ({"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0.5),
        ({}, float("inf")),
    ],
)
def test_a_container_s_quota_counts(tmp_path, files, found):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert quota(tmp_path) == found
    assert allowed(tmp_path) == max(1, min(len(cores()), round(min(found, 1000))))
