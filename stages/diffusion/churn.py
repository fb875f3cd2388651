"""Churn: a sampler of the ODE goes up a little before each step, by fresh noise (Karras et al. 2022, algorithm 2)."""

import math
from typing import TYPE_CHECKING

from .query import Noise, noised

if TYPE_CHECKING:
    from torch import Tensor


def churned(x: "Tensor", sigma: float, rate: float, std: float, noise: Noise, step: int) -> tuple["Tensor", float]:
    """x and its level after noise was added: sigma grows by a factor of 1 + rate, at most by sqrt(2).

    rate: EDM's S_churn over the number of steps; 0 draws nothing and returns x and sigma as they are. std: EDM's S_noise.
    """
    level = sigma * (1 + min(rate, math.sqrt(2) - 1))
    return noised(x, std * math.sqrt(level**2 - sigma**2), noise, f"churn {step}"), level
