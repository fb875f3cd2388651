"""Being told to stop, as clusters tell it: real trainings, alone and under each launcher, whose data never come.

Loader processes are halted, so that every rank waits for a batch; then the request goes to a process group or to a launcher, or
the launcher is killed. Whatever it was, what had been trained is saved, and no process is left.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from stages.training.checkpoints import nimg_of
from stages.training.deepspeed_engine import free_port
from stages.training.rundir import RunDir
from tests.stages.training.jobs import torchrun, write_cascade

ROOT = Path(__file__).parents[3]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}

pytestmark = [pytest.mark.slow, pytest.mark.matrix, pytest.mark.timeout(600)]


@dataclass
class Training:
    """A process that trains or starts what does; it leads a process group of its own."""

    started: subprocess.Popen
    run: Path
    log: Path

    def processes(self) -> list[psutil.Process]:
        """It and all below it, while it lives."""
        own = psutil.Process(self.started.pid)
        return [own, *own.children(recursive=True)]

    def loaders(self) -> list[psutil.Process]:
        """Forks of trainers: children with the command line of their parent."""
        return [each for each in self.processes()[1:] if each.cmdline() and each.cmdline() == each.parent().cmdline()]

    def told(self) -> str:
        return self.log.read_text() + "".join(path.read_text() for path in self.run.parent.glob("*.log"))

    def until(self, condition: Callable[[], object], seconds: float = 150) -> None:
        ends = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < ends, self.told()[-3000:]
            time.sleep(0.1)


@pytest.fixture
def start(shards, tmp_path):
    """Starts a training of a million images that saves at its end only, under the launcher of words; ends what is left of it."""
    cascade = write_cascade(
        tmp_path / "tiny.yaml", images=10**6, save_every=10**6, log_every=8, workers=2, warmup=0, seed=1
    )
    out, log, left = tmp_path / "out", tmp_path / "told.txt", []

    def started(*launcher: str, more: tuple[str, ...] = ()) -> Training:
        command = [sys.executable, *launcher, str(cascade), *more, "--data", str(shards), "--out", str(out)]
        with log.open("ab") as file:
            process = subprocess.Popen(
                command, cwd=ROOT, env=ENVIRONMENT, stdout=file, stderr=file, start_new_session=True
            )
        left.append(Training(process, out / "base_8", log))
        return left[-1]

    yield started
    for each in left:
        if each.started.poll() is None:
            for process in each.processes():
                process.kill()
            each.started.wait()


TRAIN, TORCHRUN, DEEPSPEED, LAUNCH = "train.py", "torchrun", "deepspeed", "cascade.launch"


def words(launcher: str) -> tuple[str, ...]:
    """What starts a training, with two processes where there is a launcher, up to the arguments of train.py."""
    port = str(free_port())
    return {
        TRAIN: ("train.py",),
        TORCHRUN: (*torchrun(2), "train.py"),
        DEEPSPEED: (
            "-m", "deepspeed.launcher.runner", "--master_addr", "127.0.0.1", "--master_port", port,
            "--num_accelerators", "2", "train.py",
        ),
        LAUNCH: ("-m", "cascade.launch"),
    }[launcher]  # fmt: skip


@pytest.mark.parametrize(
    ("launcher", "number", "to_group", "code"),
    [
        (TRAIN, signal.SIGTERM, True, 0),
        (TRAIN, signal.SIGHUP, True, 0),
        (TRAIN, signal.SIGINT, True, 130),
        (TORCHRUN, signal.SIGTERM, True, None),
        (TORCHRUN, signal.SIGKILL, False, -signal.SIGKILL),
        (DEEPSPEED, signal.SIGTERM, False, None),
        (DEEPSPEED, signal.SIGTERM, True, None),
        (LAUNCH, signal.SIGTERM, True, 0),
        (LAUNCH, signal.SIGKILL, False, -signal.SIGKILL),
    ],
    ids=[
        "alone", "alone, hung up", "alone, interrupted", "torchrun's group", "torchrun killed", "deepspeed",
        "deepspeed's group", "cascade.launch", "cascade.launch killed",
    ],
)  # fmt: skip
def test_a_stop_while_data_are_waited_for_saves_what_was_trained(start, launcher, number, to_group, code):
    """Under launchers that pass a signal on, and DeepSpeed's that dies of it without a word: trainers notice."""
    training = start(*words(launcher), more=("base_8",) if launcher != LAUNCH else ("--nproc", "2"))
    world = 1 if launcher == TRAIN else 2
    metrics = training.run / "metrics.jsonl"
    training.until(lambda: metrics.exists() and len(metrics.read_text().splitlines()) > 3)
    loaders = training.loaders()
    assert len(loaders) == 2 * world
    everyone = training.processes()
    for each in loaders:
        each.suspend()
    lines = -1
    while lines != (lines := len(metrics.read_text().splitlines())):
        time.sleep(2)
    if to_group:
        os.killpg(training.started.pid, number)
    else:
        os.kill(training.started.pid, number)
    assert training.started.wait(100) == code or code is None
    _, left = psutil.wait_procs(everyone, timeout=30)
    assert not left, training.told()[-3000:]
    saved = nimg_of(RunDir(training.run).latest())
    assert saved == 8 * lines
    assert f"told to stop, saved at {saved:,} images" in training.told()
    assert "Traceback" not in training.told().replace('Traceback (most recent call last):\n  File "<frozen', "")


def test_kill_9_of_a_trainer_ends_its_loader_processes(start):
    training = start(*words(TRAIN), more=("base_8",))
    training.until(lambda: (training.run / "metrics.jsonl").exists())
    loaders = training.loaders()
    assert len(loaders) == 2
    training.started.send_signal(signal.SIGSTOP)
    time.sleep(2)  # their queues fill up: they wait for ever to hand over what nobody will read
    training.started.kill()
    _, left = psutil.wait_procs(loaders, timeout=10)
    assert not left


def catches(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal."""
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigCgt")]
    return bool(int(line.split()[1], 16) >> (number - 1) & 1)


@pytest.mark.parametrize("moment", ["at its start", "in its imports", "in the folder"])
def test_a_stop_before_the_first_update_loses_nothing(start, moment):
    training = start(*words(TRAIN), more=("base_8",))
    training.until(lambda: catches(training.started.pid, signal.SIGTERM))
    if moment == "at its start":
        assert not training.run.exists()
    if moment == "in its imports":
        time.sleep(1)
    if moment == "in the folder":
        training.until(lambda: (training.run / "run.lock").exists())
    training.started.send_signal(signal.SIGTERM)
    assert training.started.wait(60) == 0, training.told()
    assert "told to stop" in training.told()
    assert "Traceback" not in training.told()


def test_a_stop_before_the_first_update_of_two_ranks(start):
    """They wait for each other, so they stop together, and the launcher counts no failure."""
    training = start(*words(TORCHRUN), more=("base_8",))
    ranks = lambda: psutil.Process(training.started.pid).children()  # noqa: E731
    training.until(lambda: len(ranks()) == 2 and all(catches(each.pid, signal.SIGTERM) for each in ranks()))
    for each in ranks():
        each.send_signal(signal.SIGTERM)
    assert training.started.wait(120) == 0, training.told()
    assert "Traceback" not in training.told()
