"""The uncertainty weight: after learning, the loss adds alike at every level, whatever its size was."""

import pytest
import torch

from stages.build import build_stage
from stages.losses import Losses
from stages.objectives.denoising_config import DenoisingConfig
from stages.objectives.weights import midpoints
from tests.stages.tiny import base_config

STAGE = build_stage(base_config())


def made():
    return DenoisingConfig.model_validate({"weight": {"kind": "uncertainty", "half_life": 10**6}}).build()


def raw(sigma):
    """A weighted error that falls by a factor of hundreds over the levels."""
    return (0.02 + sigma.double()) ** -0.8


def test_it_arrives_at_the_log_of_the_mean_loss():
    """The loss is exp(-u) raw; learning from it, u -> log(raw), so that the loss is 1 at all levels."""
    objective = made()
    generator = torch.Generator().manual_seed(0)
    for _ in range(300):
        levels = objective.levels(STAGE, torch.rand(64, generator=generator, dtype=torch.float64))
        loss = (levels.factor * raw(levels.sigma)).float()
        objective.learn(STAGE, [Losses(loss.mean(), loss, levels.sigma.float())], lambda numbers: numbers)
    levels = objective.levels(STAGE, midpoints(200)[10:-10])
    found = levels.factor * raw(levels.sigma)
    torch.testing.assert_close(found, torch.ones_like(found), rtol=0, atol=0.12)
    assert raw(levels.sigma).max() / raw(levels.sigma).min() > 10


def test_it_changes_the_weight_and_not_the_levels():
    objective = made()
    before = objective.levels(STAGE, midpoints(20))
    objective.weight.table.sums = torch.stack([torch.arange(1, 17).double(), torch.ones(16).double()]) * 1e9
    after = objective.levels(STAGE, midpoints(20))
    assert torch.equal(before.sigma, after.sigma)
    assert (after.factor.diff() <= 0).all()
    assert after.factor[[0, -1]].tolist() == pytest.approx([1, 1 / 16], rel=1e-6)
