"""The config that all parametrisations share, with what other code may need from it without building the parametrisation."""

from functools import cache
from typing import TYPE_CHECKING, Any, Self

from ..strict import Choice

if TYPE_CHECKING:
    from ..diffusion.parametrisation import Parametrisation


class ParametrisationConfig(Choice):
    """Base of the configs in `PARAMETRISATIONS`. Lengths are in cells of x0: px, where the space is one of pixels."""

    @property
    def multiple(self) -> int:
        """Sides of x0 must be multiples of this."""
        return 1

    @property
    def multiple_rule(self) -> str:
        """How `multiple` follows from the keys; for error messages, after "no multiple of 4 = "."""
        return "1"

    @property
    def reach(self) -> int:
        """How far from a cell of x0_hat what the parametrisation itself reads of x and low_res may lie."""
        return 0

    def check(self, *, channels: int, takes_picture: bool) -> None:
        """Raise ValueError, one line, for an x0 of so many channels, with or without a low_res, that this cannot serve."""

    def stand_in(self, *, takes_picture: bool) -> Self:
        """The same with made-up numbers in the place of those still to be measured: to see what a stage costs."""
        return self

    def build(self, *, sigma_data: float, low_res_sigma: float | None) -> "Parametrisation":
        """Build the parametrisation for data of std sigma_data whose low_res, if any, has errors of std low_res_sigma; equal
        arguments share one object."""
        return _built(self, sigma_data, low_res_sigma)

    def made(self, *, sigma_data: float, low_res_sigma: float | None) -> Any:
        """What `build` returns, new."""
        return self.loaded()(sigma_data=sigma_data, low_res_sigma=low_res_sigma)


@cache
def _built(config: ParametrisationConfig, sigma_data: float, low_res_sigma: float | None) -> Any:
    return config.made(sigma_data=sigma_data, low_res_sigma=low_res_sigma)
