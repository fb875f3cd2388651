"""The config of `Spectral`."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from ..strict import PositiveFloat
from .config import ParametrisationConfig

Rows = tuple[tuple[PositiveFloat, ...], ...]


class SpectralConfig(ParametrisationConfig):
    """Spectral preconditioning in `bands` octaves, the last of which is what is left.

    std, error: root-mean-squares of x0 - mean and of x0 - upsample(low_res) a coefficient, a row a band, finest first, of one
    number for each colour, or of one for all. mean: the mean of each channel; none is 0. beside: what the error of upsampling is
    independent of. `measured`: train.py measures all three on
    its shards and writes them into the run's config. data: fingerprint of the shards where they were measured.
    """

    implementation: ClassVar[str] = "stages.diffusion.spectral:Spectral"
    kind: Literal["spectral"] = "spectral"
    bands: Annotated[PositiveInt, Field(le=10)] = 3
    colours: Literal["opponent", "own"] = "opponent"
    std: Literal["measured"] | Rows = "measured"
    error: Rows = ()
    mean: tuple[float, ...] = ()
    beside: Literal["x0", "low_res"] = "low_res"
    data: str = ""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.std == "measured":
            if self.error or self.mean:
                raise ValueError("std is measured, error or mean is not; give all of them, or none")
            return self
        for name, rows in (("std", self.std), ("error", self.error)):
            if rows and len(rows) != self.bands:
                raise ValueError(f"{name} has {len(rows)} rows, bands is {self.bands}; a row a band is needed")
        return self

    @property
    def is_measured(self) -> bool:
        """Whether the numbers are known."""
        return self.std != "measured"

    @property
    def multiple(self) -> int:
        """2^(bands - 1): the coarsest band is halved so often."""
        return 1 << (self.bands - 1)

    @property
    def multiple_rule(self) -> str:
        """How it follows from `bands`."""
        return "2^(parametrisation.bands - 1); set fewer bands"

    @property
    def reach(self) -> int:
        """That of the bands."""
        return 8 * (self.multiple - 1)

    def check(self, *, channels: int, takes_picture: bool) -> None:
        """Raise ValueError for numbers of another count of channels, or for an error where no picture is taken, or none where one
        is."""
        if not self.is_measured:
            return
        if bool(self.error) != takes_picture:
            raise ValueError(
                "parametrisation.error is given, but no low_res is taken; leave it out"
                if self.error
                else "parametrisation.error is missing: a stage that takes low_res needs it beside std"
            )
        for name, rows in (("std", self.std), ("error", self.error), ("mean", (self.mean,) if self.mean else ())):
            widths = {1, channels} if name != "mean" else {channels}
            for row in rows:
                if len(row) not in widths:
                    allowed = " or ".join(str(width) for width in sorted(widths))
                    raise ValueError(f"parametrisation.{name} has {len(row)} numbers a row; {allowed} are needed")

    def stand_in(self, *, takes_picture: bool) -> Self:
        """White data of std 1, all of it lost, where nothing was measured."""
        white = ((1.0,),) * self.bands
        numbers = {"std": white, "error": white if takes_picture else ()}
        return self if self.is_measured else self.model_copy(update=numbers)

    def made(self, *, sigma_data: float, low_res_sigma: float | None) -> Any:
        """A `Spectral`; where that is EDM's formula, an `EDM`: one band, one colour, no mean, an error beside x0. sigma_data and
        low_res_sigma have no part in it. Raises ValueError as long as nothing was measured."""
        from ..diffusion.parametrisation import EDM
        from .octaves import octaves

        if not isinstance(self.std, tuple):
            raise ValueError(
                "parametrisation.std is `measured`, and nothing was measured yet: train.py does it, and "
                "python -m stages.measure prints it"
            )
        single = self.bands == 1 and all(len(rows[0]) == 1 for rows in (self.std, self.error) if rows)
        if single and not any(self.mean) and (self.beside == "x0" or not self.error):
            return EDM(sigma_data=self.std[0][0], low_res_sigma=self.error[0][0] if self.error else None)
        return self.loaded()(
            std=self.std,
            lost=self.error or None,
            mean=self.mean if any(self.mean) else (),
            opponent=self.colours == "opponent",
            beside=self.beside,
            bands=octaves(self.bands),
        )
