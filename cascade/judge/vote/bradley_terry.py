"""Strengths of several sides from votes on pairs of them (Bradley and Terry, 1952): P(i beats j) = sigmoid(s_i - s_j).

Maximum likelihood by Newton's method on a concave function, a tie half a win each. One vote of each pair of sides is added as a
tie, so that a side that won or lost everything has a finite strength.
"""

import numpy as np

from cascade.judge.vote.intervals import Z

PRIOR = 0.5  # wins added each way
ITERATIONS = 100


def strengths(wins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(strength, half), both (k,) float64: log-odds with sum 0, and half of their 95 % interval.

    wins (k, k): how often i beat j. The covariance is the pseudo-inverse of the information, which knows differences only.
    """
    counts = wins + PRIOR * (1 - np.eye(len(wins)))
    games = counts + counts.T
    strength = np.zeros(len(wins))
    for _ in range(ITERATIONS):
        chance = _chance(strength)
        step = np.linalg.pinv(_information(games, chance)) @ (counts - games * chance).sum(1)
        strength = strength + step / max(1.0, np.abs(step).max())  # a damped step cannot run away
        if np.abs(step).max() < 1e-12:
            break
    covariance = np.linalg.pinv(_information(games, _chance(strength)))
    return strength - strength.mean(), Z * np.sqrt(covariance.diagonal().clip(min=0))


def _chance(strength: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(strength[None, :] - strength[:, None]))


def _information(games: np.ndarray, chance: np.ndarray) -> np.ndarray:
    """Fisher's information (k, k): a graph Laplacian with weights n_ij p_ij (1 - p_ij)."""
    weight = games * chance * (1 - chance)
    return np.diag(weight.sum(1)) - weight
