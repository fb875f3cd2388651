"""Threads of a training on CPU cores: what suits the load, what a run began with, what the user says; told in one line."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from data.cpus import allowed, cores
from stages.training.threads import share_of
from tests.stages.training.jobs import ROOT, write_cascade

EMPTY = {key: value for key, value in os.environ.items() if not key.startswith("OMP_")}


@contextmanager
def spinning(nice: int) -> Iterator[None]:
    """Others that keep all cores busy; at nice 19 with the time that nobody else wants."""
    code = f"import os\nos.nice({nice})\nwhile True: pass"
    started = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2 * len(cores()))]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


@pytest.fixture
def busy():
    with spinning(0):
        yield


@pytest.fixture
def busy_but_polite():
    with spinning(19):
        yield


def train(folder: Path, shards: Path, *more: str, **environment: str) -> subprocess.CompletedProcess[str]:
    cascade = folder / "tiny.yaml"
    if not cascade.exists():
        write_cascade(cascade, images=16, save_every=16)
    words = [str(ROOT / "train.py"), str(cascade), "base_8", "--data", str(shards), "--out", str(folder), *more]
    done = subprocess.run(
        [sys.executable, *words, "--device", "cpu"],
        cwd=ROOT,
        env=EMPTY | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    return done


def threads(folder: Path) -> int:
    return json.loads((folder / "base_8" / "environment.json").read_text())["threads"]


@pytest.mark.matrix
@pytest.mark.alone
@pytest.mark.skipif(allowed() < 2, reason="one core has one thread")
@pytest.mark.usefixtures("busy_but_polite")
def test_a_busy_machine_gets_fewer_threads_and_a_run_keeps_its_own(shards, tmp_path):
    begun = train(tmp_path, shards)
    assert threads(tmp_path) == 1
    assert "cores busy, so training takes 1 threads; OMP_NUM_THREADS=" in begun.stderr
    other = train(tmp_path, shards, "--images=32", OMP_NUM_THREADS="2")
    assert "was trained with 1 threads, OMP_NUM_THREADS asks for 2: it goes on, not bit for bit" in other.stderr
    assert threads(tmp_path) == 2
    kept = train(tmp_path, shards, "--images=48")
    assert threads(tmp_path) == 2
    assert "this run has kept 2 threads; OMP_NUM_THREADS=1 would suit the machine" in kept.stderr


@pytest.mark.matrix
def test_waiting_threads_sleep(shards, tmp_path):
    """What libgomp itself says when torch loads it."""
    told = train(tmp_path, shards, OMP_NUM_THREADS="2", OMP_DISPLAY_ENV="TRUE")
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in told.stderr
    active = train(tmp_path, shards, OMP_NUM_THREADS="2", OMP_DISPLAY_ENV="TRUE", OMP_WAIT_POLICY="ACTIVE")
    assert "OMP_WAIT_POLICY = 'ACTIVE'" in active.stderr


@pytest.mark.matrix
@pytest.mark.alone
@pytest.mark.usefixtures("busy")
def test_two_threads_on_a_busy_machine_get_on(tmp_path):
    """Each of many small operations ends with a meeting of both threads: those that spin wait out whole turns of the others, in
    some of the rounds."""
    code = (
        "import time\nfrom data.cpus import wait_asleep\nwait_asleep()\nimport torch\ntorch.set_num_threads(2)\n"
        "x = torch.ones(1 << 17)\nworst = 0.0\nfor _ in range(100):\n"
        "    time.sleep(0.02)\n    t = time.monotonic()\n    for _ in range(500): x = x * 1.0\n"
        "    worst = max(worst, time.monotonic() - t)\n    if worst > 2: break\nprint(worst)"
    )
    seconds = {}
    for policy in ("", "ACTIVE"):
        environment = EMPTY | {"PYTHONPATH": str(ROOT)} | ({"OMP_WAIT_POLICY": policy} if policy else {})
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=280
        )
        assert done.returncode == 0, done.stderr
        seconds[policy] = float(done.stdout)
    print(seconds)
    assert seconds[""] < seconds["ACTIVE"]


def test_jobs_that_start_together_share_the_cores(tmp_path):
    assert share_of(tmp_path, 1) == allowed()
    assert share_of(tmp_path, 2 * allowed()) == 1
    (tmp_path / "checkpoints" / "nimg-0000000016").mkdir(parents=True)
    (tmp_path / "environment.json").write_text(json.dumps({"threads": 5}))
    assert share_of(tmp_path, 1) == 5
