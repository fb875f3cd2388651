"""The loss of a stage, which is its `forward`: the ideal denoiser pays the Bayes risk, every other more; draws go by image.

Two pictures a distance D apart: the posterior's logit for the true one is N(m / 2, m) with m = D^2 / sigma^2 (a second
observation at aug_sigma adds its own), and a share 1 - p of the distance is the error. One integral, hence a closed form.
"""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from data.batch import Batch, Cond, to_float
from stages.build import build_stage
from stages.config import AugConfig, BaseConfig, CondConfig, NoiseConfig, SuperResConfig
from stages.diffusion.denoiser import scalings
from stages.diffusion.samplers import Answer
from stages.draws import Draws
from tests.stages.tiny import base_config, shapes_batch, sr_config, wake
from tests.worlds import TINY_NET, FiniteStage, finite_stage

NUM = 2000
NODES, WEIGHTS = (torch.from_numpy(part) for part in np.polynomial.hermite_e.hermegauss(200))
CONFIGS = {
    "base": BaseConfig(resolution=4, net=TINY_NET, noise=NoiseConfig(mean=0.5)),
    "super_res": SuperResConfig(
        resolution=4, low_res=2, net=TINY_NET, noise=NoiseConfig(mean=0.5), aug=AugConfig(max_sigma=4.0)
    ),
}
kinds = pytest.mark.parametrize("kind", list(CONFIGS))


def bayes_risk(distance: Tensor, information: Tensor) -> Tensor:
    """E (1 - p)^2 D^2 with logit(p) ~ N(m / 2, m), m = information (b,), by Gauss-Hermite quadrature."""
    logit = information[:, None] / 2 + information[:, None].sqrt() * NODES
    return distance.square() * ((1 - logit.sigmoid()).square() @ WEIGHTS) / WEIGHTS.sum()


@pytest.fixture(scope="module")
def pictures():
    return torch.randint(0, 256, (2, 3, 4, 4), generator=torch.Generator().manual_seed(5), dtype=torch.uint8)


def two_pictures_batch(pictures: Tensor) -> Batch:
    return Batch(
        image=pictures.repeat(NUM // 2, 1, 1, 1), cond=Cond.empty(NUM), index=torch.arange(NUM), keys=("",) * NUM
    )


def ideal(kind: str, pictures: Tensor) -> FiniteStage:
    return finite_stage(CONFIGS[kind], to_float(pictures))


@kinds
def test_ideal_denoiser_pays_the_bayes_risk(kind, pictures):
    stage = ideal(kind, pictures)
    losses = stage(two_pictures_batch(pictures), 0)
    world, (call,) = stage.world, stage.asked
    distance = (world.images[0] - world.images[1]).norm()
    information = distance.square() / losses.sigma.double().square()
    if kind == "super_res":
        information = information + (world.low_res[0] - world.low_res[1]).norm().square() / call.aug_sigma.double() ** 2
    error = stage.parametrisation.error(call.aug_sigma)
    weight = scalings(losses.sigma, sigma_data=0.5, low_res_sigma=error).weight
    risk = weight * bayes_risk(distance, information) / world.images[0].numel()

    difference = losses.per_image.double() - risk
    spread = difference.std() / NUM**0.5
    assert risk.mean() > 10 * spread  # there is something to measure
    assert difference.mean().abs() < 4 * spread
    assert_close(losses.loss, losses.per_image.mean())


@kinds
@pytest.mark.parametrize("step", [-0.1, 0.1])
def test_every_other_denoiser_pays_more(kind, step, pictures, monkeypatch):
    stage, batch = ideal(kind, pictures), two_pictures_batch(pictures)
    lowest = stage(batch, 0).per_image

    denoise = stage.denoise
    changes = {
        "shrunk": lambda x0_hat, _x: (1 + step) * x0_hat,
        "moved": lambda x0_hat, _x: x0_hat + step,
        "noisy": lambda x0_hat, x: x0_hat + step * (x - x0_hat),
    }
    for name, change in changes.items():
        monkeypatch.setattr(
            stage, "denoise", lambda x, *given, change=change: Answer(change(denoise(x, *given).x0_hat, x))
        )
        more = stage(batch, 0).per_image - lowest
        assert more.mean() > 3 * more.std() / NUM**0.5, name


@pytest.mark.parametrize(
    "config", [base_config(flip=True), sr_config(), sr_config(crop=0)], ids=["base", "crop", "whole"]
)
class TestDraws:
    """Sigma, noise, drops, flips, crops of image k are a function of (seed, k)."""

    @pytest.fixture
    def stage(self, config):
        torch.manual_seed(0)
        return wake(build_stage(config))

    def test_loss_of_an_image_does_not_depend_on_its_batch(self, stage):
        batch = shapes_batch(8, 16)
        together = stage(batch, 0)
        alone = [stage(batch[k : k + 1], 0) for k in range(8)]
        assert torch.equal(together.sigma, torch.cat([part.sigma for part in alone]))
        assert_close(together.per_image, torch.cat([part.per_image for part in alone]), rtol=1e-4, atol=1e-5)
        micro = torch.cat([stage(batch[k : k + 2], 0).per_image for k in (0, 2, 4, 6)])
        assert_close(together.per_image, micro, rtol=1e-4, atol=1e-5)

    def test_same_seed_same_loss_other_seed_other_loss(self, stage):
        batch = shapes_batch(4, 16)
        assert torch.equal(stage(batch, 0).per_image, stage(batch, 0).per_image)
        assert (stage(batch, 0).sigma != stage(batch, 1).sigma).all()

    def test_the_global_generator_decides_nothing(self, stage):
        batch = shapes_batch(2, 16)
        torch.manual_seed(1)
        first = stage(batch, 0).per_image
        torch.manual_seed(2)
        assert torch.equal(stage(batch, 0).per_image, first)


def test_condition_drop_share(pictures):
    config = CONFIGS["base"].model_copy(update={"cond": CondConfig(num_classes=1, drop=0.25)})
    stage = finite_stage(config, to_float(pictures))
    batch = two_pictures_batch(pictures)
    kept = torch.arange(NUM) % 10 != 0  # rows without a condition stay without one
    cond = Cond.of(kept, label=torch.zeros(NUM, dtype=torch.int64))
    stage(Batch(image=batch.image, cond=cond, index=batch.index, keys=batch.keys), 0)
    keep = stage.asked[0].cond.parts["label"].keep
    assert not keep[~kept].any()
    assert keep[kept].double().mean().item() == pytest.approx(0.75, abs=4 * (0.25 * 0.75 / 1800) ** 0.5)


@pytest.mark.parametrize("flip", [False, True])
def test_half_of_the_pictures_are_flipped(flip, pictures):
    config = CONFIGS["base"].model_copy(update={"train": CONFIGS["base"].train.model_copy(update={"flip": flip})})
    stage = build_stage(config)
    batch = two_pictures_batch(pictures)
    x0, _ = stage.prepared(batch, Draws(batch, 0), None)
    plain = to_float(batch.image)
    same, mirrored = ((x0 == other).flatten(1).all(1) for other in (plain, plain.flip(-1)))
    assert (same | mirrored).all()
    assert mirrored.double().mean().item() == pytest.approx(0.5 * flip, abs=0.05)


def test_training_levels_are_those_of_the_config(pictures):
    sigma = ideal("base", pictures)(two_pictures_batch(pictures), 0).sigma
    assert sigma.log().mean().item() == pytest.approx(0.5, abs=0.1)
    assert sigma.log().std().item() == pytest.approx(1.2, abs=0.07)
