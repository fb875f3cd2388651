"""Bits per dimension of real stages: a network whose answer is still 0 has the ideal denoiser of normal data, so they are known."""

import math

import pytest
import torch

from data.batch import Batch
from data.pack.packer import pack
from data.pack.settings import PackSettings
from data.shapes import write_folder
from stages import likelihood
from stages.build import build_stage
from stages.bundle import Provenance, save_bundle
from stages.config import StageConfig
from stages.diffusion.corrupt import uniforms
from stages.diffusion.likelihood import rising_levels
from stages.randomness import generators
from tests.stages.tiny import base_config, shapes_batch, sr_config

SIGMAS = rising_levels(64, sigma_min=0.005, sigma_max=80.0)


def config_of(kind: str) -> StageConfig:
    config = base_config(classes=0) if kind == "base" else sr_config()
    values = config.model_dump()
    values["cond"] = {"num_classes": 0}
    values["sample"] = {"sigma_max": 80.0}
    return type(config).model_validate(values)


def expected(config: StageConfig, batch: Batch) -> torch.Tensor:
    """Bits under N(m, 1 / P + sigma_min^2), P = 1/sigma_data^2 + 1/s^2 and m = low_res / (s^2 P); 0 without a low_res."""
    stage = build_stage(config)
    space, d = stage.space, 3 * config.resolution**2
    x0 = space.read(batch.image, config.size)
    within = uniforms(generators(0, batch.index, "likelihood/within"), d).float().reshape(x0.shape)
    x, precision, m = x0 + 2 / 255 * (within - 0.5), 0.6**-2, torch.zeros_like(x0)
    if config.takes:
        low = space.load(space.store(space.down(x0, config.takes)))
        precision += config.low_res_sigma**-2
        m = stage.enlarge(low) / config.low_res_sigma**2 / precision
    std = (1 / precision + 0.005**2) ** 0.5
    log_p = torch.distributions.Normal(m.double(), std).log_prob(x.double()).flatten(1).sum(1)
    return -log_p / math.log(2) / d - math.log2(2 / 255)


@pytest.mark.parametrize("kind", ["base", "super_res"])
def test_a_fresh_network_has_the_bits_of_normal_data(kind):
    config = config_of(kind)
    batch = shapes_batch(4, config.resolution)
    found = likelihood.bits_per_dim(build_stage(config).eval(), batch, SIGMAS, likelihood.How(probes=2))
    assert found.shape == (4, 2)
    torch.testing.assert_close(found.mean(1), expected(config, batch), rtol=0, atol=0.01)


def test_a_picture_has_its_bits_in_every_batch():
    config = config_of("base")
    stage, batch = build_stage(config).eval(), shapes_batch(4, 8)
    together = likelihood.bits_per_dim(stage, batch, SIGMAS, likelihood.How())
    alone = likelihood.bits_per_dim(stage, batch[2:3], SIGMAS, likelihood.How())
    torch.testing.assert_close(together[2:3], alone, rtol=1e-6, atol=1e-6)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes")
    settings = PackSettings(size=16, shards=10, val=0.2)
    pack(write_folder(folder / "pictures", 40, 16), folder / "shards", settings, workers=0)
    return folder / "shards"


@pytest.fixture
def bundle(tmp_path):
    def saved(kind: str, **changes):
        config = config_of(kind)
        config = type(config).model_validate(config.model_dump() | changes)
        told = Provenance(nimg=0, ema=16, data="none", versions={})
        save_bundle(
            tmp_path / kind, build_stage(config).state_dict(), config=config, text_encoder=None, provenance=told
        )
        return tmp_path / kind

    return saved


def test_the_command(bundle, shards, capsys):
    likelihood.main(bundle("super_res"), str(shards), num=3, levels=32, probes=2, batch=2)
    first, second, pair = capsys.readouterr().out.splitlines()
    assert "bits/dim of 3 pictures of 3 x 16 x 16 numbers, std 0." in first
    assert float(first.split()[0]) > 0
    assert second.startswith("32 levels from 0.005 to 80 by rk4, 2 probes, std between them")
    assert second.endswith("620 rows of the network a picture")
    assert "density of the pair" in pair
    likelihood.main(bundle("base"), str(shards), num=2, levels=32)
    assert len(capsys.readouterr().out.splitlines()) == 2


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"levels": 31}, "31 levels: a likelihood needs at least 32"),
        ({"method": "euler"}, "--method euler: rk4 or heun is needed"),
        ({"sigma_min": 90.0}, "--sigma-min 90.0: at least 0 and below the stage's sigma_max 80.0"),
        ({"device": "gpu"}, "--device gpu: allowed are cpu, cuda and cuda:NUMBER"),
        ({"device": "cuda:99"}, "--device cuda:99: torch sees .* GPUs; take cpu"),
    ],
)
def test_bad_options(bundle, shards, options, told):
    with pytest.raises(ValueError, match=told):
        likelihood.main(bundle("base"), str(shards), **options)


@pytest.mark.parametrize(
    ("cond", "told"),
    [({"maps": {"channels": 1}}, "has no maps"), ({"num_classes": 9}, "classes, cond.num_classes is 9")],
)
def test_shards_that_do_not_say_what_the_stage_is_told(bundle, shards, cond, told):
    with pytest.raises(ValueError, match=told):
        likelihood.main(bundle("base", cond=cond), str(shards), levels=32)
