"""Strengths of sides, against closed forms."""

from math import log, sqrt

import numpy as np
import pytest

from cascade.judge.vote.bradley_terry import strengths
from cascade.judge.vote.intervals import Z


def test_of_two_sides_it_is_the_logit():
    """With the tie that is added: 30.5 of 41; the variance of the difference is 1 / (n p q)."""
    strength, half = strengths(np.array([[0.0, 30.0], [10.0, 0.0]]))
    assert strength[0] - strength[1] == pytest.approx(log(30.5 / 10.5), abs=1e-9)
    rate = 30.5 / 41
    assert half[0] == pytest.approx(Z / (2 * sqrt(41 * rate * (1 - rate))), rel=1e-9)


def test_planted_strengths_come_back():
    planted = np.array([1.2, 0.1, -0.4, -0.9])
    wins = 1e6 / (1 + np.exp(planted[None, :] - planted[:, None]))
    np.fill_diagonal(wins, 0)
    strength, half = strengths(wins)
    np.testing.assert_allclose(strength, planted - planted.mean(), atol=1e-4)
    assert half.max() < 0.01


def test_who_wins_everything_has_a_finite_strength():
    strength, half = strengths(np.array([[0, 50, 50], [0, 0, 50], [0, 0, 0]]))
    assert strength.tolist() == sorted(strength.tolist(), reverse=True)
    assert np.isfinite(strength).all()
    assert np.isfinite(half).all()
    assert strength.sum() == pytest.approx(0, abs=1e-9)


def test_without_votes_all_are_equal():
    strength, half = strengths(np.zeros((3, 3)))
    assert strength.tolist() == [0, 0, 0]
    assert half[0] > 1.5
