"""Grids: the noise levels that a sampler visits, by the word that settings may say.

A grid is (num_steps, its options) -> sigmas (num_steps + 1,) float64 on the CPU, strictly decreasing, in float32, too, to 0.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # configs name grids where torch is not loaded yet
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class GridKind:
    """options: settings that it reads, by name. Raises ValueError where levels cannot be told apart."""

    function: Callable[..., "Tensor"]
    options: tuple[str, ...] = ()

    def levels(self, settings: Any) -> "Tensor":
        """Of a stage's sampling settings."""
        return self.function(settings.num_steps, **{name: getattr(settings, name) for name in self.options})


def power(num_steps: int, *, sigma_min: float, sigma_max: float, rho: float) -> "Tensor":
    """Evenly spaced in sigma^(1/rho) from sigma_max to sigma_min, then 0."""
    from .noise import power_grid

    return power_grid(num_steps, sigma_min=sigma_min, sigma_max=sigma_max, rho=rho)


GRIDS = {"power": GridKind(function=power, options=("sigma_min", "sigma_max", "rho"))}
