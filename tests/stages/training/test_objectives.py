"""Every objective trains, and goes on from a save with the same bits; what it learns is in the checkpoint and in no bundle."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from stages.build import build_stage
from stages.config import StageConfig
from stages.objectives.law_config import LAWS
from stages.objectives.weight_config import WEIGHTS
from stages.training.checkpoints import load_state
from stages.training.engine import LocalEngine
from stages.training.loop import train
from stages.training.rundir import RunDir
from stages.training.runtime import Options
from tests.stages.objectives.test_denoising import with_objective
from tests.stages.tiny import base_config, shapes_batch, sr_config, wake
from tests.stages.training.test_run import assert_equal_runs

pytestmark = pytest.mark.filterwarnings("ignore:::tensorboard")
ROOT = Path(__file__).parents[3]
BINS = 4
LEARNS = {"importance": {"bins": BINS}, "weight": {"kind": "uncertainty", "bins": BINS}}
OBJECTIVES = {
    **{f"weight {kind}": {"weight": {"kind": kind}} for kind in WEIGHTS},
    **{f"levels {kind}": {"levels": {"kind": kind}} for kind in LAWS},
    "both": LEARNS,
    "hybrid": {"kind": "hybrid", "nll": 0.1},
    "hybrid, both": {"kind": "hybrid"} | LEARNS,
}


def engine(config: StageConfig) -> LocalEngine:
    torch.manual_seed(0)
    return LocalEngine(wake(build_stage(config)), config.train, torch.device("cpu"))


def update(engine: LocalEngine, k: int) -> float:
    done = engine.update([shapes_batch(4, 16, start=4 * k)], 1e-2)
    assert done.applied
    engine.objective.learn(engine.stage, done.losses, engine.total)
    return done.loss


@pytest.mark.parametrize("name", OBJECTIVES)
def test_it_goes_on_from_a_save_with_the_same_bits(name):
    config = with_objective(sr_config(), **OBJECTIVES[name])
    whole, first, second = engine(config), engine(config), engine(config)
    losses = [update(whole, k) for k in range(4)]
    assert [update(first, k) for k in range(2)] == losses[:2]
    second.load(first.state())
    assert [update(second, k) for k in (2, 3)] == losses[2:]
    assert_close(second.state(), whole.state(), rtol=0, atol=0)


def config(**train: object) -> StageConfig:
    return with_objective(base_config(**train), **LEARNS)


@pytest.fixture(scope="module")
def finished(shards, runtime, tmp_path_factory):
    out = tmp_path_factory.mktemp("importance") / "run"
    train(config(), name="base_8", data=shards, out=out, runtime=runtime)
    return out


def sums(run):
    return load_state(RunDir(run).latest())[f"objective/importance_{BINS}"]


def test_what_it_learns_is_in_the_checkpoint(finished):
    """The images of 6 updates, discounted; squares of losses."""
    decay = 0.5 ** (8 / (500 * BINS))
    assert sums(finished)[1].sum().item() == pytest.approx(sum(8 * decay**k for k in range(6)), rel=1e-12)
    assert (sums(finished)[0] > 0).any()
    assert not any(
        "importance" in name or "uncertainty" in name for name in load_file(finished / "bundle" / "ema.safetensors")
    )


def test_resumed_it_ends_in_the_same_bits(finished, shards, runtime, tmp_path):
    for images in (24, 48):
        train(config(images=images), name="base_8", data=shards, out=tmp_path / "run", runtime=runtime)
    assert_equal_runs(tmp_path / "run", finished)


def test_a_run_may_turn_to_it_and_from_it(shards, runtime, tmp_path):
    keys = ("importance", "weight.kind", "weight.bins", "weight.half_life")
    allowed = Options(allow=tuple(f"train.objective.{key}" for key in keys))
    for images, made in ((24, base_config), (48, config), (72, base_config)):
        out = tmp_path / "run"
        train(made(images=images), name="base_8", data=shards, out=out, runtime=runtime, options=allowed)
        state = load_state(RunDir(out).latest())
        learned = {name for name in state if name.startswith("objective/")}
        both = {f"objective/importance_{BINS}", f"objective/uncertainty_{BINS}"}
        assert learned == (both if images == 48 else set())


@pytest.mark.slow
@pytest.mark.matrix
@pytest.mark.timeout(600)
@pytest.mark.parametrize("world", [1, 2])
def test_deepspeed_at_zero_2(world, tmp_path):
    """Losses and tables of the local engine, summed over ranks; a state that is loaded goes on with the same bits."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={world}"] if world > 1 else []
    command = [sys.executable, *torchrun, "-m", "tests.stages.training.objectives_worker", str(tmp_path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=580, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["zero2"] == pytest.approx(report["local"], rel=1e-4)
    assert report["again"] == report["zero2"][2:]
    assert report["learned"] == ["objective/importance_4", "objective/uncertainty_4"]
    assert report["resumed"]
    assert report["apart"] < 1e-4
