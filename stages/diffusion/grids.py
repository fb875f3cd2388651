"""Grids: the noise levels that a sampler visits, by their name in the settings.

A grid maps num_steps and its options to sigmas (num_steps + 1,) float64 on the CPU, strictly decreasing (also in float32) to 0.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # configs import this module without torch
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class GridKind:
    """A grid with the names of the settings that it reads. Its function raises ValueError for levels too close to distinguish."""

    function: Callable[..., "Tensor"]
    options: tuple[str, ...] = ()

    def levels(self, settings: Any) -> "Tensor":
        """Levels for a stage's sampling settings."""
        return self.function(settings.num_steps, **{name: getattr(settings, name) for name in self.options})


def power(num_steps: int, *, sigma_min: float, sigma_max: float, rho: float) -> "Tensor":
    """Space num_steps levels evenly in sigma^(1/rho) from sigma_max to sigma_min, then append 0."""
    from .noise import power_grid

    return power_grid(num_steps, sigma_min=sigma_min, sigma_max=sigma_max, rho=rho)


GRIDS = {"power": GridKind(function=power, options=("sigma_min", "sigma_max", "rho"))}
