"""Grids: the noise levels that a sampler visits, by their name in the settings.

A grid maps num_steps and its options to sigmas (num_steps + 1,) float64 on the CPU, strictly decreasing (also in float32) to 0; the
others lie from sigma_min to sigma_max. `power` and `loguniform` are even in a function of sigma; `flow` is even in the time of flow
matching; `linear`, `cosine` and `sigmoid` are the 1,000 discrete levels of DDPM's beta schedules (noise.py): they visit num_steps.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from .option import Option

if TYPE_CHECKING:  # configs import this module without torch
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class GridKind:
    """A grid with the names of the settings that it reads. Its function raises ValueError for levels too close to distinguish.

    keys: settings of all stages. options: its own settings by name; grids that share a name share the option.
    """

    function: Callable[..., "Tensor"]
    keys: tuple[str, ...] = ("sigma_min", "sigma_max")
    options: Mapping[str, Option] = field(default_factory=dict)
    source: str = ""

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of all settings that it reads besides num_steps."""
        return (*self.keys, *self.options)

    def levels(self, settings: Any) -> "Tensor":
        """Levels for a stage's sampling settings."""
        return self.function(settings.num_steps, **{name: getattr(settings, name) for name in self.reads})


def power(num_steps: int, *, sigma_min: float, sigma_max: float, rho: float) -> "Tensor":
    """Space num_steps levels evenly in sigma^(1/rho) from sigma_max to sigma_min, then append 0."""
    from .noise import power_grid

    return power_grid(num_steps, sigma_min=sigma_min, sigma_max=sigma_max, rho=rho)


def loguniform(num_steps: int, *, sigma_min: float, sigma_max: float) -> "Tensor":
    """Space num_steps levels evenly in log(sigma), the limit of `power` for a large rho, then append 0."""
    from .noise import loguniform_grid

    return loguniform_grid(num_steps, sigma_min=sigma_min, sigma_max=sigma_max)


def flow(num_steps: int, *, sigma_min: float, sigma_max: float, shift: float) -> "Tensor":
    """Space num_steps levels evenly in the time sigma / (1 + sigma) of flow matching, shifted to the resolution, then append 0."""
    from .noise import flow_grid

    return flow_grid(num_steps, sigma_min=sigma_min, sigma_max=sigma_max, shift=shift)


def discrete(
    num_steps: int, *, betas: str, sigma_min: float, sigma_max: float, shift: float, spacing: str, terminal_snr: str
) -> "Tensor":
    """Choose num_steps of the levels of a beta schedule, then append 0."""
    from .noise import BETAS, beta_table, spaced, within, zero_terminal_snr

    table = beta_table(BETAS[betas]())
    if terminal_snr == "zero":
        table = zero_terminal_snr(table)
    return spaced(within(table * shift, sigma_min=sigma_min, sigma_max=sigma_max), num_steps, spacing)


SHIFT = {
    "shift": Option(
        default=1.0,
        low=0.01,
        high=100.0,
        help="factor on all levels for the resolution: side over the schedule's own side",
    )
}
SPACING = {
    "spacing": Option(default="trailing", choices=("trailing", "leading"), help="trailing begins at the highest level"),
    "terminal_snr": Option(
        default="schedule",
        choices=("schedule", "zero"),
        help="zero ends the schedule in pure noise, sigma_max bounds it",
    ),
}

GRIDS = {
    "power": GridKind(function=power, keys=("sigma_min", "sigma_max", "rho"), source="Karras et al. 2022, eq. 5"),
    "loguniform": GridKind(function=loguniform, source="Song et al. 2021, VE"),
    "flow": GridKind(function=flow, options=SHIFT, source="Lipman et al. 2023; Esser et al. 2024, eq. 23"),
    "linear": GridKind(function=partial(discrete, betas="linear"), options=SHIFT | SPACING, source="Ho et al. 2020"),
    "cosine": GridKind(
        function=partial(discrete, betas="cosine"), options=SHIFT | SPACING, source="Nichol and Dhariwal 2021, eq. 17"
    ),
    "sigmoid": GridKind(function=partial(discrete, betas="sigmoid"), options=SHIFT | SPACING, source="Xu et al. 2022"),
}


def grid_options() -> dict[str, Option]:
    """Options of all grids, by name."""
    return {name: option for kind in GRIDS.values() for name, option in kind.options.items()}
