"""Weights and laws as keys of the denoising objective: scaled, judged by one, as good as the default's own bits at the default."""

import pytest
import torch
from torch.testing import assert_close

from data.batch import Cond
from stages.build import build_stage
from stages.config import BaseConfig, StageConfig
from stages.diffusion.corrupt import expand_to
from stages.diffusion.noise import lognormal_sigma
from stages.draws import Draws
from stages.objectives.denoising import DENOISING
from stages.objectives.denoising_config import DenoisingConfig
from stages.objectives.law_config import LAWS
from stages.objectives.weight_config import WEIGHTS
from stages.texts import as_values
from tests.stages.tiny import base_config, shapes_batch, sr_config, wake


def objective(**keys: object):
    return DenoisingConfig.model_validate(keys).build()


def with_objective(config: StageConfig, **keys: object) -> StageConfig:
    values = config.model_dump()
    values["train"]["objective"] = {"kind": "denoising"} | keys
    values["learned_variance"] = keys.get("kind") == "hybrid"
    return type(config).model_validate(values)


@pytest.mark.parametrize("config", [base_config(), sr_config()], ids=["base", "sr"])
@pytest.mark.parametrize("kind", WEIGHTS)
def test_at_the_start_the_expected_loss_is_the_defaults(kind, config):
    """Where F = 0 the error of pictures with the assumed statistics is 1 / P, so the mean weight / P must be 1."""
    stage, given = build_stage(config), objective(weight={"kind": kind})
    u = torch.rand(20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    levels = given.levels(stage, u)
    aug = None if config.takes is None else config.max_aug_sigma * torch.rand(20_000).double().square()
    cond = Cond.empty(20_000)
    cond = cond if aug is None else cond.given(aug=aug)
    ratio = given.weight_of(stage, cond, levels) / stage.parametrisation.weight(levels.sigma, aug)
    assert ratio.mean().item() == pytest.approx(1, abs=5 * (ratio.std() / 20_000**0.5).item() + 1e-6)


def test_the_default_has_the_bits_that_it_had():
    """The loss as it was written before there were weights."""
    stage, batch = wake(build_stage(base_config())), shapes_batch(8, 8)
    draws = Draws(batch, 0)
    x0, cond = stage.prepared(batch, draws, None)
    sigma = lognormal_sigma(draws.uniforms["sigma"], mean=-1.2, std=1.2).to(x0)
    x0_hat = stage.denoise(x0 + expand_to(sigma, x0) * draws.noise("eps", x0.shape), sigma, cond).x0_hat
    expected = stage.parametrisation.weight(sigma, None) * (x0_hat - x0).square().flatten(1).mean(1)
    for given in (DENOISING, objective()):
        losses = stage(batch, 0, objective=given)
        assert torch.equal(losses.per_image, expected.detach())
        assert torch.equal(losses.sigma, sigma)


@pytest.mark.parametrize("kind", LAWS)
def test_levels_are_those_of_the_law(kind):
    stage, given = build_stage(base_config()), objective(levels={"kind": kind})
    u = torch.linspace(0.01, 0.99, 9, dtype=torch.float64)
    assert_close(given.levels(stage, u).sigma, LAWS[kind](kind=kind).law(stage.config.noise)(u), rtol=0, atol=0)


def test_validation_compares_by_the_default():
    assert objective(weight={"kind": "x0"}).judge is DENOISING
    assert objective().judge is DENOISING


def test_texts_of_the_default_say_nothing_new():
    assert as_values(base_config())["train"].get("objective") is None
    config = with_objective(base_config(), weight={"kind": "min_snr", "gamma": 3.0})
    assert as_values(config)["train"]["objective"] == {"weight": {"kind": "min_snr", "gamma": 3.0}, "kind": "denoising"}
    assert BaseConfig.model_validate(as_values(config), strict=False) == config


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"weight": {"kind": "minsnr"}}, "minsnr"),
        ({"weight": {"kind": "x0", "gamma": 1.0}}, "gamma"),
        ({"weight": {"kind": "min_snr", "gamma": 0}}, "greater than 0"),
        ({"importance": {"floor": 0}}, "greater than 0"),
        ({"importance": {"bins": 1}}, "greater than or equal to 2"),
    ],
)
def test_bad_keys(keys, told):
    with pytest.raises(ValueError, match=told):
        objective(**keys)
