"""Strengths of several sides from votes on pairs of them (Bradley and Terry, 1952): P(i beats j) = sigmoid(s_i - s_j).

Maximum likelihood by Newton's method on a concave function, a tie half a win each. One vote of each pair of sides is added as a
tie, so that a side that won or lost everything has a finite strength.
"""

import torch
from torch import Tensor

from cascade.judge.vote.intervals import Z

PRIOR = 0.5  # wins added each way
ITERATIONS = 100


def strengths(wins: Tensor) -> tuple[Tensor, Tensor]:
    """(strength, half), both (k,) float64: log-odds with sum 0, and half of their 95 % interval.

    wins (k, k): how often i beat j. The covariance is the pseudo-inverse of the information, which knows differences only.
    """
    k = len(wins)
    counts = wins.double() + PRIOR * (1 - torch.eye(k, dtype=torch.float64))
    games = counts + counts.T
    strength = torch.zeros(k, dtype=torch.float64)
    for _ in range(ITERATIONS):
        chance = torch.sigmoid(strength[:, None] - strength[None, :])
        slope = (counts - games * chance).sum(1)
        step = torch.linalg.pinv(_information(games, chance)) @ slope
        strength = strength + step / max(1.0, float(step.abs().max()))  # a damped step cannot run away
        if float(step.abs().max()) < 1e-12:
            break
    chance = torch.sigmoid(strength[:, None] - strength[None, :])
    covariance = torch.linalg.pinv(_information(games, chance))
    return strength - strength.mean(), Z * covariance.diagonal().clamp(min=0).sqrt()


def _information(games: Tensor, chance: Tensor) -> Tensor:
    """Fisher's information (k, k): a graph Laplacian with weights n_ij p_ij (1 - p_ij)."""
    weight = games * chance * (1 - chance)
    return weight.sum(1).diag() - weight
