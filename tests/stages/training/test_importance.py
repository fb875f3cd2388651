"""An objective that learns on the way: levels are drawn where losses are, from a table that is a part of the run's state."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import pytest
import torch
from torch import Tensor

from stages.config import BaseConfig
from stages.diffusion.corrupt import add_noise
from stages.diffusion.denoiser import weighted_error
from stages.diffusion.noise import lognormal_sigma
from stages.losses import Losses
from stages.objectives.config import ObjectiveConfig
from stages.objectives.denoising import DENOISING
from stages.objectives.objective import Levels, Objective
from stages.training.checkpoints import load_state
from stages.training.loop import train
from stages.training.rundir import RunDir
from stages.training.runtime import Options
from tests.stages.progressive import registered
from tests.stages.tiny import base_config
from tests.stages.training.test_run import assert_equal_runs

pytestmark = pytest.mark.filterwarnings("ignore:::tensorboard")
BINS = 4


class ImportanceConfig(ObjectiveConfig):
    implementation: ClassVar[str] = f"{__name__}:Importance"
    kind: Literal["importance"] = "importance"
    mean: float = -1.2
    std: float = 1.2


@dataclass(frozen=True, kw_only=True)
class Drawn(Levels):
    """weight (b,): against how much too often a level is drawn."""

    weight: Tensor


class Importance(Objective[Drawn]):
    """Equal bins of the levels that denoising has; each is drawn as often as its mean loss is large, and weighed against that."""

    judge = DENOISING

    def __init__(self, config: ImportanceConfig):
        self.config = config
        self.sums = torch.ones(2, BINS, dtype=torch.float64)  # losses, images

    @property
    def odds(self) -> Tensor:
        mean = self.sums[0] / self.sums[1]
        return mean / mean.sum()

    def levels(self, stage, u: Tensor) -> Drawn:
        ends = self.odds.cumsum(0)
        number = torch.bucketize(u.contiguous(), ends[:-1], right=True)
        within = (u - (ends - self.odds)[number]) / self.odds[number]
        level = (number + within.clamp(1e-6, 1 - 1e-6)) / BINS
        sigma = lognormal_sigma(level, mean=self.config.mean, std=self.config.std)
        return Drawn(sigma=sigma, weight=1 / (BINS * self.odds[number]))

    def loss(self, stage, x0: Tensor, cond, levels: Drawn, draws) -> Tensor:
        x = add_noise(x0, levels.sigma, draws.noise("eps", x0.shape))
        weight = levels.weight * stage.parametrisation.weight(levels.sigma, None)
        return weighted_error(stage.denoise(x, levels.sigma, cond).x0_hat, x0, weight)

    def learn(self, losses: Sequence[Losses], total: Callable[[Tensor], Tensor]) -> None:
        sigma, loss = (torch.cat([getattr(part, name).double() for part in losses]) for name in ("sigma", "per_image"))
        level = torch.special.ndtr((sigma.log() - self.config.mean) / self.config.std)
        number = (BINS * level).long().clamp(max=BINS - 1)
        new = torch.stack([loss * BINS * self.odds[number], torch.ones_like(loss)])
        self.sums = self.sums + total(torch.zeros_like(self.sums).index_add_(1, number.cpu(), new.cpu())).cpu()

    def state(self) -> dict[str, Tensor]:
        return {"sums": self.sums}

    def load(self, state: dict[str, Tensor]) -> None:
        self.sums = state["sums"].clone()


@pytest.fixture(autouse=True, scope="module")
def _registered():
    with registered("importance", ImportanceConfig):
        yield


def config(**train: object) -> BaseConfig:
    values = base_config(**train).model_dump()
    values["train"]["objective"] = {"kind": "importance"}
    return BaseConfig.model_validate(values)


@pytest.fixture(scope="module")
def finished(shards, runtime, tmp_path_factory):
    out = tmp_path_factory.mktemp("importance") / "run"
    train(config(), name="base_8", data=shards, out=out, runtime=runtime)
    return out


def sums(run) -> Tensor:
    return load_state(RunDir(run).latest())["objective/sums"]


def test_what_it_learns_is_in_the_checkpoint(finished):
    assert sums(finished)[1].sum() == 48 + BINS
    assert not torch.allclose(sums(finished)[0], torch.ones(BINS, dtype=torch.float64))


def test_resumed_it_ends_in_the_same_bits(finished, shards, runtime, tmp_path):
    for images in (24, 48):
        train(config(images=images), name="base_8", data=shards, out=tmp_path / "run", runtime=runtime)
    assert_equal_runs(tmp_path / "run", finished)


def test_a_run_may_turn_to_it_and_from_it(shards, runtime, tmp_path):
    allowed = Options(allow=tuple(f"train.objective.{key}" for key in ("kind", "mean", "std")))
    for images, made in ((24, base_config), (48, config), (72, base_config)):
        out = tmp_path / "run"
        train(made(images=images), name="base_8", data=shards, out=out, runtime=runtime, options=allowed)
        state = load_state(RunDir(out).latest())
        assert ("objective/sums" in state) == (images == 48)
