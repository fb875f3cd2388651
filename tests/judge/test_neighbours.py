"""Nearest training pictures: copies, new draws, twins in the data."""

import pytest
import torch

from cascade.judge.neighbours import neighbours

from .oracle import draw


def test_copies_are_found():
    training = draw(100)
    order = torch.randperm(100, generator=torch.Generator().manual_seed(0))
    found = neighbours(training, training[order])
    assert torch.equal(found.index, order)
    assert not found.distance.any()
    assert (found.own > 0).all()
    assert found.share_nearer == 1


def test_of_new_draws_half_are_nearer():
    shares = [neighbours(draw(200, seed=s), draw(200, seed=s + 100)).share_nearer for s in range(20)]
    assert sum(shares) / 20 == pytest.approx(0.5, abs=0.02)


def test_what_is_far_away_is_nearer_never():
    assert neighbours(draw(50), draw(50, seed=1, shift=30.0)).share_nearer == 0


def test_twins_count_half():
    training = draw(50).repeat(2, 1)
    assert neighbours(training, training[:10]).share_nearer == 0.5


@pytest.mark.parametrize(
    ("training", "generated", "message"),
    [(draw(1), draw(9), "training: 1 picture"), (draw(9), draw(9, 4), "training have 8 dimensions, generated 4")],
)
def test_what_cannot_be_compared_is_refused(training, generated, message):
    with pytest.raises(ValueError, match=message):
        neighbours(training, generated)
