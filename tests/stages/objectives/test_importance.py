"""Importance sampling of levels: unbiased to rounding, by the square root of the second moment, a part of the run's state."""

import pytest
import torch

from stages.build import build_stage
from stages.losses import Losses
from stages.objectives.denoising_config import DenoisingConfig, ImportanceConfig
from stages.objectives.importance import Importance
from stages.objectives.weights import midpoints
from stages.training.engine import LocalEngine, Update
from stages.training.quartiles import SigmaQuartiles
from tests.stages.objectives.test_denoising import with_objective
from tests.stages.tiny import base_config

BINS, NUM = 4, 500


def config(**train: object):
    return with_objective(base_config(**train), importance={"bins": BINS})


def learned(shares: list[float]) -> Importance:
    """One whose bins have these second moments, from many images."""
    importance = Importance(ImportanceConfig(bins=len(shares)))
    importance.table.sums = 1e9 * torch.stack([torch.tensor(shares).double(), torch.ones(len(shares)).double()])
    return importance


def test_the_expectation_is_that_of_the_law_to_rounding():
    """E over u of factor f(sigma) by midpoints within each bin's share of u, in float64, against the law's own at those levels."""
    config, given = DenoisingConfig(importance=ImportanceConfig(bins=3)), base_config()
    stage, objective = build_stage(given), config.build()
    objective.importance.table.sums = learned([0.01, 5.0, 700.0]).table.sums
    odds = objective.importance.odds
    begin = odds.cumsum(0) - odds
    u = (begin[:, None] + odds[:, None] * midpoints(NUM)).flatten()
    levels = objective.levels(stage, u)
    uniform = DenoisingConfig().build().levels(stage, midpoints(3 * NUM)).sigma

    def f(sigma):
        return (1 + sigma**-1.5) * sigma.log().sin().square()

    drawn = (odds.repeat_interleave(NUM) / NUM * levels.factor * f(levels.sigma)).sum()
    assert drawn.item() == pytest.approx(f(uniform).mean().item(), rel=1e-12)
    assert levels.factor.max() <= 10


def test_odds_are_roots_of_second_moments_and_a_floor():
    odds = learned([1.0, 4.0, 25.0]).odds
    expected = 0.1 / 3 + 0.9 * torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64) / 8
    torch.testing.assert_close(odds, expected, rtol=1e-7, atol=0)
    assert odds.sum().item() == pytest.approx(1, abs=1e-15)


def test_the_variance_of_the_loss_falls():
    """Two levels of loss: 1 in 90 % of the levels, 30 in the rest; a tenth of the variance is left."""
    importance = learned([1.0] * 9 + [900.0])
    u = torch.rand(100_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def loss(level):
        return torch.where(level < 0.9, 1.0, 30.0)

    level, bin_ = importance.drawn(u)
    drawn, plain = importance.weight(bin_) * loss(level), loss(u)
    assert drawn.mean().item() == pytest.approx(3.9, abs=0.05)
    assert drawn.var() < 0.1 * plain.var()


def test_before_anything_is_learned_it_is_the_law():
    importance = Importance(ImportanceConfig(bins=16))
    u = torch.tensor([0.0, 0.3, 0.5, 1 - 2**-53], dtype=torch.float64)
    level, bin_ = importance.drawn(u)
    torch.testing.assert_close(level, u, rtol=0, atol=1e-15)
    assert (level < 1).all()
    torch.testing.assert_close(importance.weight(bin_), torch.ones(4, dtype=torch.float64), rtol=1e-15, atol=0)


def test_it_learns_the_loss_without_its_own_factor_summed_over_ranks():
    stage, objective = build_stage(config()), config().train.objective.build()
    objective.importance.table.sums = learned([1.0, 1.0, 1.0, 9.0]).table.sums
    u = torch.tensor([0.05, 0.5, 0.99], dtype=torch.float64)
    levels = objective.levels(stage, u)
    loss = torch.tensor([2.0, 3.0, 5.0]).double()
    losses = Losses(loss.mean(), (loss * levels.factor).float(), levels.sigma.float())
    torch.testing.assert_close(objective.as_logged(stage, losses), loss, rtol=1e-6, atol=0)
    before = objective.importance.table.sums.clone()
    objective.learn(stage, [losses], lambda numbers: 2 * numbers)  # another rank with the same
    decay = 0.5 ** (6 / (500 * BINS))
    gained = objective.importance.table.sums - decay * before
    _, bin_ = objective.importance.drawn(u)
    assert gained[1].sum().item() == pytest.approx(6)
    assert gained[0].sum().item() == pytest.approx(2 * (4 + 9 + 25), rel=1e-5)
    assert set(gained[1].nonzero().flatten().tolist()) == set(bin_.tolist())


def test_the_log_shows_the_mean_of_the_law_by_quartile():
    """Levels of the top quartile are drawn more often; the mean that is shown for them is the loss there."""
    stage, objective = build_stage(config()), config().train.objective.build()
    quartiles = SigmaQuartiles(stage, objective)
    objective.importance.table.sums = learned([1.0, 1.0, 1.0, 9.0]).table.sums
    levels = objective.levels(stage, midpoints(100))
    loss = torch.bucketize(levels.sigma.float(), quartiles.edges).double() + 1
    losses = Losses(loss.mean(), (loss * levels.factor).float(), levels.sigma.float())
    quartiles.add(Update(loss=1.0, grad_norm=1.0, losses=(losses,)))
    found = quartiles.take(LocalEngine(stage, config().train, torch.device("cpu")))
    assert found == pytest.approx({f"loss_q{k}": k for k in (1, 2, 3, 4)}, rel=1e-5)
