"""What a cluster does to a run: several processes, killed, told to stop, hung, resumed with another shape. Real processes, gloo.

One run that nothing happened to is the measure: whatever happened, the same command must reach the same end.
"""

import json
import subprocess
from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch.testing import assert_close

from stages.training.checkpoints import nimg_of
from stages.training.rundir import RunDir
from tests.stages.training.jobs import Job, write_cascade

pytestmark = [pytest.mark.slow, pytest.mark.matrix, pytest.mark.timeout(600)]


@pytest.fixture
def job(shards, tmp_path) -> Job:
    return Job(write_cascade(tmp_path / "tiny.yaml"), shards, tmp_path / "out")


@pytest.fixture(scope="module")
def two(shards, tmp_path_factory) -> Path:
    """The run directory of two ranks at ZeRO 1 that nothing happened to."""
    folder = tmp_path_factory.mktemp("two")
    job = Job(write_cascade(folder / "tiny.yaml"), shards, folder / "out")
    done = job.train("--zero", "1", world=2)
    assert done.returncode == 0, done.stderr[-2000:]
    return job.run


@pytest.fixture(scope="module")
def one(shards, tmp_path_factory) -> Path:
    """The run directory of one process with the local engine."""
    folder = tmp_path_factory.mktemp("one")
    job = Job(write_cascade(folder / "tiny.yaml"), shards, folder / "out")
    done = job.train(world=0)
    assert done.returncode == 0, done.stderr[-2000:]
    return job.run


def losses(run: Path) -> dict[int, float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {line["nimg"]: line["loss"] for line in lines}


def assert_same_end(run: Path, expected: Path, tolerance: float = 0.0) -> None:
    """The same losses, weights, moments and averages; bit for bit, or within a tolerance for sums in another order."""
    assert losses(run) == pytest.approx(losses(expected), rel=tolerance, abs=0)
    ends = [RunDir(each).latest() for each in (run, expected)]
    assert nimg_of(ends[0]) == nimg_of(ends[1]) == 48
    for name in ("state.safetensors", "ema-16.safetensors", "ema-64.safetensors"):
        states = [load_file(end / name) for end in ends]
        assert_close(states[0], states[1], rtol=10 * tolerance, atol=tolerance)


def gone(done: subprocess.CompletedProcess) -> str:
    assert done.returncode != 0
    return done.stderr


def test_a_killed_rank_costs_the_images_since_the_last_save(job, two):
    """-9 to rank 1 at image 40; the last save was at 24. Rank 0 says in one line what happened to it, and ends by itself."""
    (code, told), (killed, _) = job.ranks("--zero", "1", world=2, accident="kill 1 40")
    assert (code, killed) == (1, -9)
    assert "error: stage base_8: rank 0 lost another one at image 40 (" in told
    assert "Traceback" not in told
    assert nimg_of(RunDir(job.run).latest()) == 24
    assert job.train("--zero", "1", world=2).returncode == 0
    assert_same_end(job.run, two)


def test_a_killed_rank_under_a_launcher_ends_all(job):
    """It tells each rank that is left to stop, which it may do before that rank has noticed."""
    assert "exitcode  : -9" in gone(job.train("--zero", "1", world=2, accident="kill 1 40"))
    assert nimg_of(RunDir(job.run).latest()) in (24, 40)


@pytest.mark.parametrize("accident", ["term 1 16", "usr1 0 16"])
def test_a_signal_to_one_rank_saves_all_and_exits_0(job, two, accident):
    done = job.train("--zero", "1", world=2, accident=accident)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "told to stop, saved at 16 images; the same command goes on" in done.stdout
    assert nimg_of(RunDir(job.run).latest()) == 16
    assert job.train("--zero", "1", world=2).returncode == 0
    assert_same_end(job.run, two)


def test_an_interrupt_saves_and_exits_130(job, one):
    assert job.train(world=0, accident="int 0 16").returncode == 130
    assert nimg_of(RunDir(job.run).latest()) == 16
    assert job.train(world=0).returncode == 0
    assert_same_end(job.run, one)


def test_a_second_signal_ends_it_at_once(job, one):
    assert job.train(world=0, accident="twice 0 32").returncode == 128 + 15
    assert nimg_of(RunDir(job.run).latest()) == 24
    assert job.train(world=0).returncode == 0
    assert_same_end(job.run, one)


def test_a_run_goes_on_with_one_process_then_two_at_zero_3_then_one(job, one):
    """Local to 16, two ranks at ZeRO 3 to 32, one DeepSpeed process at ZeRO 1 to the end: the losses of one that stayed what it
    was, within the rounding of float32 sums in another order."""
    for images, world, more in (("16", 0, ()), ("32", 2, ("--zero", "3")), ("48", 1, ("--zero", "1", "--offload"))):
        done = job.train("--images", images, *more, world=world)
        assert done.returncode == 0, done.stderr[-2000:]
    assert_same_end(job.run, one, tolerance=1e-4)


@pytest.mark.parametrize("where", ["hang", "stuck"])
def test_a_rank_that_hangs_ends_the_run_in_time(job, where):
    """Before an update, or within one, where ZeRO waits in a group of its own."""
    told = gone(job.train("--zero", "1", "--timeout-s", "5", world=2, accident=f"{where} 1 24"))
    assert "stage base_8: rank 0 lost another one at image" in told


def test_a_second_run_in_the_same_folder_is_refused(job, shards):
    """While the first holds the folder; a run that died is no obstacle (above)."""
    run = RunDir(job.run)
    with run.lock():
        done = job.train(world=0)
    assert done.returncode == 2
    assert "another run works there" in done.stderr
    assert '"pid"' in done.stderr
    assert not (job.run / "config.json").exists()
