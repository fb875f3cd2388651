"""Classical targets: what their papers say of x0 and eps, that all of them have one optimum, and the key that chooses one."""

import json

import pytest
import torch
from pydantic import ValidationError
from torch.testing import assert_close

from stages.build import build_stage
from stages.bundle import SIDECAR, Provenance, load_bundle, save_bundle
from stages.config import SuperResConfig
from stages.diffusion.corrupt import add_noise, expand_to
from stages.diffusion.denoiser import weighted_error
from stages.diffusion.parametrisation import EDM
from stages.diffusion.prediction import TARGETS, Prediction
from stages.parametrisations.registry import PARAMETRISATIONS
from stages.texts import as_values
from tests.stages.tiny import base_config, shapes_batch, sr_config, wake

DATA = 0.6
SIGMAS = torch.tensor([0.003, 0.05, 0.4, 1.5, 20.0, 80.0])
SHAPE = (3, 64, 64)
forms = pytest.mark.parametrize("target", TARGETS)


def world(generator):
    """x0 of std DATA, its noise, and x; float64."""
    x0, eps = torch.randn(2, len(SIGMAS), *SHAPE, generator=generator, dtype=torch.float64)
    return DATA * x0, eps, add_noise(DATA * x0, SIGMAS, eps)


def told(target, x0, eps):
    """The target in the words of its paper, over its std."""
    alpha = (1 + (SIGMAS.double() / DATA) ** 2).rsqrt()
    signal, noise = (expand_to(each, x0) for each in (alpha, (1 - alpha**2).sqrt()))
    return {
        "eps": eps,
        "x0": x0 / DATA,
        "v": signal * eps - noise * x0 / DATA,
        "flow": (eps - x0) / (1 + DATA**2) ** 0.5,
    }[target]


@forms
def test_a_network_that_knows_the_target_knows_the_picture(target, generator):
    x0, eps, x = world(generator)
    found = Prediction(sigma_data=DATA, target=target).estimate(told(target, x0, eps), x, SIGMAS).x0_hat
    assert_close(found, x0, rtol=0, atol=2e-5)  # scalars are float32, sigma up to 80


@forms
def test_the_target_has_unit_variance_and_a_network_that_answers_zero_the_loss_one(target, generator):
    x0, eps, x = world(generator)
    form = Prediction(sigma_data=DATA, target=target)
    one = torch.ones(len(SIGMAS), dtype=torch.float64)
    allowed = 5 * (2 / x0[0].numel()) ** 0.5  # a variance from n draws is known to sqrt(2 / n)
    assert_close(told(target, x0, eps).var((1, 2, 3)), one, rtol=0, atol=allowed)
    x0_hat = form.estimate(torch.zeros_like(x), x, SIGMAS).x0_hat
    assert_close(weighted_error(x0_hat, x0, form.weight(SIGMAS)).double(), one, rtol=0, atol=allowed)


@forms
def test_the_loss_is_the_squared_error_of_the_target(target, generator):
    x0, eps, x = world(generator)
    form = Prediction(sigma_data=DATA, target=target)
    F = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    loss = weighted_error(form.estimate(F, x, SIGMAS).x0_hat, x0, form.weight(SIGMAS))
    assert_close(loss.double(), (F - told(target, x0, eps)).square().mean((1, 2, 3)), rtol=1e-3, atol=0)


@forms
def test_the_best_linear_network_gives_one_picture_under_every_target(target, generator):
    """Least squares in the target's own loss: x0_hat is then the projection of x0 on x, and EDM's."""
    x0, _, x = world(generator)
    fitted = []
    for form in (Prediction(sigma_data=DATA, target=target), EDM(sigma_data=DATA)):
        zero = form.estimate(torch.zeros_like(x), x, SIGMAS).x0_hat
        slope = form.estimate(x, x, SIGMAS).x0_hat - zero  # x0_hat of F = a x is zero + a slope
        a = ((x0 - zero) * slope).sum((1, 2, 3)) / slope.square().sum((1, 2, 3))
        fitted.append(zero + expand_to(a, x) * slope)
    assert_close(fitted[0], fitted[1], rtol=0, atol=1e-6)
    assert_close(fitted[0], x * DATA**2 / expand_to(DATA**2 + SIGMAS.double() ** 2, x), rtol=0.05, atol=0.05)


def of_kind(config, kind):
    return config.model_validate(config.model_dump() | {"parametrisation": {"kind": kind}})


@pytest.mark.parametrize("config", [base_config(), sr_config()], ids=["base", "super_res"])
@forms
def test_a_stage_trains_under_it_and_its_bundle_remembers_it(target, config, tmp_path):
    config = of_kind(config, target)
    torch.manual_seed(0)
    stage = build_stage(config)
    losses, optimizer = [], torch.optim.Adam(stage.parameters(), lr=1e-2)
    for _ in range(12):
        losses.append(stage(shapes_batch(8, config.resolution), seed=0).loss)
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.95 * losses[0]
    told = Provenance(nimg=0, ema=16, data="none", versions={})
    save_bundle(tmp_path / "b", wake(stage).state_dict(), config=config, text_encoder=None, provenance=told)
    assert load_bundle(tmp_path / "b").parametrisation.target == target
    assert json.loads((tmp_path / "b" / SIDECAR).read_text())["config"]["parametrisation"] == {"kind": target}


def test_without_the_key_texts_and_bits_are_those_of_edm():
    config = base_config()
    assert "parametrisation" not in as_values(config)
    assert config.preconditioning == EDM(sigma_data=0.6)
    assert of_kind(config, "edm") == config
    low = SuperResConfig.model_validate({**sr_config().model_dump(), "parametrisation": {}})
    assert low.preconditioning == EDM(sigma_data=0.6, low_res_sigma=0.2)


def test_another_word_is_refused_with_those_that_exist():
    with pytest.raises(ValidationError, match=", ".join(f"'{kind}'" for kind in PARAMETRISATIONS)):
        of_kind(base_config(), "epsilon")
