"""What else can happen to a run: kills at any moment, folders that were tampered with, no memory, no compiler, the end."""

import multiprocessing
import os
import pickle
import random
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from data.errors import RunError
from stages.bundle import load_bundle, read_sidecar
from stages.stage import Stage
from stages.training import loop
from stages.training.checkpoints import CHECKPOINT_NAME, nimg_of
from stages.training.loop import train
from stages.training.norms import activation_norms, weight_norms
from stages.training.rundir import RunDir
from stages.training.runtime import Options, Runtime, compiles
from tests.stages.tiny import base_config, shapes_batch, wake

pytestmark = pytest.mark.filterwarnings("ignore:::tensorboard")

ROOT = Path(__file__).parents[3]


@pytest.fixture
def run(tmp_path) -> RunDir:
    return RunDir(tmp_path / "base_8")


def newest_nimg(run: RunDir) -> int:
    """By name, which a checkpoint gets when it is whole: older ones may just be removed."""
    return max(
        (nimg_of(path) for path in run.checkpoints.glob("nimg-*") if CHECKPOINT_NAME.fullmatch(path.name)), default=0
    )


def killed_at_twenty_moments(run: RunDir, training: Callable[[], object]) -> list[int]:
    """Where the run is after each kill. For a process of its own, in which nothing was compiled and no thread started: torch's
    autograd does not work in a fork of one that has compiled, and a fork that copies a lock of a thread may hang."""
    import timm.optim  # noqa: F401
    import torch.utils.tensorboard

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    moments, seen, deadline = random.Random(0), [0], time.monotonic() + 500
    for kill in range(20):
        child = os.fork()
        if child == 0:
            try:
                training()
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(0)  # whatever happens, nothing else goes on in here
        try:
            while kill % 4 and newest_nimg(run) == seen[-1]:  # each fourth dies at its start
                assert os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None, "it ended by itself"
                assert time.monotonic() < deadline
                time.sleep(0.001)
            time.sleep(moments.uniform(0, 0.04))
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        newest = run.latest()
        seen.append(nimg_of(newest) if newest else 0)
        if (run.path / "bundle").exists() or (run.path / "bundle.old").exists():
            load_bundle(run.bundle)
    return seen


@pytest.mark.matrix
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_twenty_sigkills_in_saves_end_in_the_undisturbed_runs_bits(run, shards, runtime, tmp_path):
    """A run that saves after every update is killed after a seeded time, again and again, until it is through; it ends as one that
    was left alone. Whatever a kill leaves, the newest whole checkpoint and the bundle are there and can be read."""
    training = partial(
        train, base_config(save_every=8, images=960), name="base_8", data=shards, out=run.path, runtime=runtime
    )
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        seen = process.submit(killed_at_twenty_moments, run, training).result()
    assert seen == sorted(seen)
    assert len(set(seen)) > 5  # the kills fell into the run, not before it
    assert seen[-1] < 960
    training()
    training(out=tmp_path / "alone")
    ends = [load_file(each.latest() / "state.safetensors") for each in (run, RunDir(tmp_path / "alone"))]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[1])


@pytest.mark.parametrize("images", [8, 40, 48])
def test_resume_at_the_first_the_last_and_after_the_last_update(run, shards, runtime, images, capsys):
    train(base_config(images=images, save_every=8, keep=9), name="base_8", data=shards, out=run.path, runtime=runtime)
    train(base_config(images=48, save_every=8, keep=9), name="base_8", data=shards, out=run.path, runtime=runtime)
    assert sorted(nimg_of(path) for path in run.checkpoints.iterdir()) == [8, 16, 24, 32, 40, 48]
    assert ("nothing to do, 48 of 48 images are done" in capsys.readouterr().out) == (images == 48)


class Evil:
    """Unpickling it makes a file."""

    def __init__(self, path: str):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("with_hash", [False, True])
def test_a_pickle_in_place_of_a_checkpoint_is_never_read(run, shards, runtime, tmp_path, with_hash):
    """Even if its sha256 was made to fit."""
    from data.files import file_sha256
    from stages.training.checkpoints import check_manifest, read_manifest, write_json

    train(base_config(), name="base_8", data=shards, out=run.path, runtime=runtime)
    sentinel = tmp_path / "executed"
    for folder in run.checkpoints.iterdir():
        path = folder / "state.safetensors"
        path.write_bytes(pickle.dumps(Evil(str(sentinel))))
        if with_hash:
            manifest = read_manifest(folder)
            manifest["files"][path.name] = {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
            write_json(folder / "manifest.json", manifest)
            assert check_manifest(folder) is None
    with pytest.raises(ValueError, match=r"no checkpoint is whole|not a safetensors file"):
        train(base_config(images=64), name="base_8", data=shards, out=run.path, runtime=runtime)
    assert not sentinel.exists()


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("can't allocate memory: you tried")]
)
def test_out_of_memory_says_what_to_try(run, shards, runtime, monkeypatch, error):
    def forward(*_):
        raise error

    monkeypatch.setattr(Stage, "denoise", forward)
    with pytest.raises(
        RunError, match=r"stage base_8: out of memory at image 0 with micro-batches of 8 at 8 px"
    ) as told:
        train(base_config(), name="base_8", data=shards, out=run.path, runtime=runtime)
    assert told.value.code == 3
    for advice in ("train.micro_batch=4", "train.checkpoint_activations=true", "--zero 2"):
        assert advice in str(told.value)
    assert not list(run.checkpoints.iterdir())
    assert not run.bundle.exists()


@pytest.mark.matrix
@pytest.mark.slow
def test_training_needs_no_compiler(shards, tmp_path):
    """PATH holds no g++ and no ninja: neither torch.compile nor DeepSpeed asks for one."""
    from tests.stages.training.jobs import Job, write_cascade

    job = Job(write_cascade(tmp_path / "tiny.yaml", compile=True), shards, tmp_path / "out")
    environment = {"PATH": str(tmp_path), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "HOME": str(tmp_path)}
    arguments = ["--data", str(shards), "--out", str(job.out), "--engine", "deepspeed"]
    done = subprocess.run(
        [sys.executable, "train.py", str(job.cascade), "base_8", *arguments],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert read_sidecar(job.run / "bundle").provenance.nimg == 48


@pytest.mark.parametrize(
    ("device", "zero", "wanted", "compiled"),
    [
        ("cuda", 0, "auto", True),
        ("cuda", 2, True, True),
        ("cuda", 3, True, False),
        ("cuda", 0, False, False),
        ("cpu", 0, "auto", False),
    ],
)
def test_what_is_compiled(device, zero, wanted, compiled):
    from stages.training.deepspeed_settings import DeepSpeedSettings

    where = Runtime(
        engine="deepspeed", rank=0, world=1, device=torch.device(device), deepspeed=DeepSpeedSettings(zero=zero)
    )
    assert compiles(where, wanted) == compiled


def test_magnitudes_on_demand(run, shards, runtime):
    """In the log where asked for, near 1 in a network whose gains are awake: that is what it was built for."""
    train(
        base_config(images=8, grid_every=8),
        name="base_8",
        data=shards,
        out=run.path,
        runtime=runtime,
        options=Options(norms=True),
    )
    line = run.metrics.read_text().splitlines()[-1]
    assert '"weight_rms/net.conv_in.weight": 1.' in line or '"weight_rms/net.conv_in.weight": 0.9' in line
    torch.manual_seed(0)
    stage = wake(loop.build_stage(base_config(net={"self_attention": (1,)})))
    found = activation_norms(stage, shapes_batch(16, 8))
    inner = {name: size for name, size in found.items() if not name.endswith("/net")}
    assert len(inner) == 8
    assert all(0.5 < size < 2 for size in inner.values()), inner
    assert weight_norms(stage).keys() == {f"weight_rms/{name}" for name, _ in stage.named_parameters()}
