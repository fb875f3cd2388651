"""The diffusion transformer in a run: it learns real pictures, is saved, resumed, bundled and sampled; and at ZeRO 2."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from torch.testing import assert_close

from cascade import Cascade, Request
from cascade.config import load_config
from cascade.events import StageFinished
from cascade.manifest import write_manifest
from data.batch import Batch, Cond
from data.resize import downsample
from stages.build import build_stage
from stages.bundle import load_bundle
from stages.config import BaseConfig
from stages.nets.dit import DiT
from stages.training.engine import LocalEngine
from stages.training.loop import train
from stages.training.rundir import RunDir
from stages.training.schedule import lr_at
from tests.stages.tiny import base_config, train_config
from tests.stages.training.jobs import Job

ROOT = Path(__file__).parents[3]
DIT = {"kind": "dit", "width": 32, "depth": 2, "head_dim": 16, "patch": 2, "mlp": 2, "emb_dim": 32, "head": "conv"}

pytestmark = pytest.mark.filterwarnings("ignore:::tensorboard")


def config(**train) -> BaseConfig:
    values = base_config(**train).model_dump(mode="json")
    return BaseConfig.model_validate(values | {"net": DIT}, strict=False)


def cascade_yaml(folder: Path) -> Path:
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump({"name": "tiny", "stages": {"base_8": config().model_dump(mode="json")}}))
    return path


def emoji(size: int) -> torch.Tensor:
    """Every picture of data/emoji64, uint8 (b, 3, size, size)."""
    pictures = [
        np.asarray(Image.open(path).convert("RGB")) for path in sorted((ROOT / "data" / "emoji64").glob("*.png"))
    ]
    whole = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float()
    return downsample(whole, (size, size)).clamp(0, 255).round().to(torch.uint8)


def batch_of(pictures: torch.Tensor, index: torch.Tensor) -> Batch:
    return Batch(image=pictures, cond=Cond.empty(len(index)), index=index, keys=tuple(map(str, index.tolist())))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_it_learns_real_pictures():
    """250 updates of 16 emoji at 8 px leave less than 0.45 of what the linear denoiser, F = 0, leaves of pictures it never saw."""
    pictures, generator = emoji(8), torch.Generator().manual_seed(0)
    order = torch.randperm(len(pictures), generator=generator)
    held, seen = pictures[order[:64]], pictures[order[64:]]
    settings = train_config(images=4000, batch=16, warmup=320, schedule="cosine", lr=0.15)
    made = BaseConfig(resolution=8, net=DIT | {"width": 48, "depth": 3}, noise={"sigma_data": 0.78}, train=settings)
    torch.manual_seed(0)
    stage = build_stage(made)

    def held_out() -> float:
        stage.eval()
        with torch.no_grad():
            loss = stage(batch_of(held, 10**6 + torch.arange(64)), seed=1).loss.item()
        stage.train()
        return loss

    linear = held_out()
    engine = LocalEngine(stage, settings, torch.device("cpu"))
    for nimg in range(0, settings.images, settings.batch):
        rows = torch.randint(len(seen), (settings.batch,), generator=generator)
        engine.update([batch_of(seen[rows], nimg + torch.arange(settings.batch))], lr_at(settings, nimg))
    assert held_out() < 0.45 * linear


@pytest.fixture(scope="module")
def finished(shards, runtime, tmp_path_factory) -> Path:
    """A cascade of one stage after six updates."""
    out = tmp_path_factory.mktemp("dit")
    train(config(), name="base_8", data=shards, out=out / "base_8", runtime=runtime)
    return out


def test_resumed_it_is_the_undisturbed_run(finished, shards, runtime, tmp_path):
    for images in (24, 48):
        train(config(images=images), name="base_8", data=shards, out=tmp_path / "base_8", runtime=runtime)
    one, other = (RunDir(folder / "base_8").latest() / "state.safetensors" for folder in (finished, tmp_path))
    assert_close(load_file(one), load_file(other), rtol=0, atol=0)


def test_its_bundle_is_folded_and_sampled(finished):
    stage = load_bundle(finished / "base_8" / "bundle")
    assert isinstance(stage.net, DiT)
    assert stage.net.token_in.folded
    write_manifest(load_config(str(cascade_yaml(finished))), finished)
    events = list(Cascade.load(finished).sample(Request(labels=(0, 3), seed=1)))
    (last,) = [event.images for event in events if isinstance(event, StageFinished)]
    assert last.shape == (2, 3, 8, 8)
    wide = list(Cascade.load(finished).sample(Request(labels=(0,), seed=1, size=(8, 12))))  # trained on 8 x 8 alone
    assert [event.images.shape for event in wide if isinstance(event, StageFinished)] == [(1, 3, 8, 12)]


@pytest.mark.slow
@pytest.mark.matrix
@pytest.mark.timeout(900)
def test_at_zero_2_it_saves_and_resumes(shards, tmp_path):
    """Two ranks, told to stop in the middle; the same command goes on to the losses of one process."""
    path = cascade_yaml(tmp_path)
    job, alone = Job(path, shards, tmp_path / "two"), Job(path, shards, tmp_path / "one")
    stopped = job.train("--zero", "2", world=2, accident="term 1 16")
    assert stopped.returncode == 0, stopped.stderr[-2000:]
    done = job.train("--zero", "2", world=2)
    assert done.returncode == 0, done.stderr[-2000:]
    assert alone.train(world=0).returncode == 0
    one, two = (load_file(RunDir(each.run).latest() / "state.safetensors") for each in (alone, job))
    assert_close(two, one, rtol=1e-3, atol=1e-4)
