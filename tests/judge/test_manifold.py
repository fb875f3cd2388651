"""Precision, recall, density, coverage: draws of one law, modes dropped or invented, torch-fidelity."""

import pytest
import torch

from cascade.judge import distances
from cascade.judge.manifold import expected_coverage, manifold

from . import oracle
from .oracle import draw


def test_of_two_draws_of_one_law():
    scores = [manifold(draw(300, seed=s), draw(300, seed=s + 100), k_density=3) for s in range(10)]
    assert sum(s.coverage for s in scores) / 10 == pytest.approx(expected_coverage(300, 300, 3), abs=0.01)
    assert sum(s.density for s in scores) / 10 == pytest.approx(1, abs=0.03)
    assert sum(s.precision - s.recall for s in scores) / 10 == pytest.approx(0, abs=0.02)


def test_expected_coverage_is_near_one_minus_half_to_the_k():
    assert expected_coverage(10_000, 10_000, 5) == pytest.approx(1 - 2**-5, abs=1e-3)
    assert expected_coverage(3, 1, 1) == pytest.approx(
        1 / 3
    )  # the generated one is the nearest of a ball's three others


def test_a_dropped_mode_costs_recall_and_coverage_only():
    real = torch.cat([draw(200, 4), draw(200, 4, seed=1, shift=20.0)])
    score = manifold(real, draw(400, 4, seed=2))
    assert score.precision > 0.8
    assert score.recall < 0.5
    assert score.coverage < 0.52


def test_an_invented_mode_costs_precision_and_density():
    score = manifold(draw(400, 4), torch.cat([draw(200, 4, seed=1), draw(200, 4, seed=2, shift=20.0)]))
    assert score.precision < 0.52
    assert score.density < 0.6
    assert score.recall > 0.6


def test_a_copy_has_everything():
    real = draw(100)
    score = manifold(real, real)
    assert (score.precision, score.recall, score.coverage) == (1, 1, 1)


@pytest.mark.parametrize("seed", range(3))
def test_it_is_torch_fidelitys_also_in_blocks(seed, monkeypatch):
    monkeypatch.setattr(distances, "ROWS", 33)
    ours = manifold(*oracle.manifold(seed))
    assert (ours.precision, ours.recall) == pytest.approx(oracle.stored()["precision, recall"][seed], abs=1e-4)


@pytest.mark.parametrize(
    ("real", "generated", "k", "message"),
    [
        (draw(79), draw(79), 3, "real: 79 samples"),
        (draw(80), draw(90), 3, "same N"),
        (draw(80), draw(80), 80, "k is 80 with 80 samples a side; it must be from 1 to 79"),
        (draw(80), draw(80), 0, "k is 0"),
    ],
)
def test_what_cannot_be_compared_is_refused(real, generated, k, message):
    with pytest.raises(ValueError, match=message):
        manifold(real, generated, k=k)
