"""The config of a stage's sampling."""

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, TypeAlias

from pydantic import Field, SerializerFunctionWrapHandler, create_model, model_serializer, model_validator

from .diffusion.grids import GRIDS
from .diffusion.samplers import SAMPLERS, Option, all_options
from .strict import Fraction, Level, NonNegative, Strict
from .texts import LATER

if TYPE_CHECKING:
    from torch import Tensor


Scale = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
CONTROLS = (
    "autoguidance_scale", "autoguidance_interval", "guidance_every", "guidance_rescale", "dynamic_threshold", "anneal_scale",
    "anneal_levels",
)  # fmt: skip
"""Keys of guidance that are written only where they differ from their defaults, which are off."""


def key_of(option: Option) -> Any:
    """Type and default of a sampler's option as a config key, which texts omit at its default."""
    bounds = Field(ge=option.low, le=option.high, description=option.help)
    value_type = Annotated[float, Field(allow_inf_nan=False)] if isinstance(option.default, float) else int
    return Annotated[value_type, bounds, LATER], option.default


if TYPE_CHECKING:
    SamplerOptions: TypeAlias = Strict
else:
    SamplerOptions = create_model(
        "SamplerOptions", __base__=Strict, **{name: key_of(option) for name, option in all_options().items()}
    )


class SampleConfig(SamplerOptions):
    """Sampling settings; the manifest keeps one per stage and a request may change them. Options that only some samplers read
    may be given only with one of those samplers.

    guidance_text, guidance_label: scales of one condition; by default guidance_scale. autoguidance_scale, autoguidance_interval:
    the scale of the difference from the stage's guide, and the levels where it acts. guidance_every: calls for which a difference
    serves. guidance_rescale: share of the way to the conditional answer's std. dynamic_threshold: percentile, 1: none.
    anneal_scale, anneal_levels: noise on the text, all of it above the second level, none below the first.
    consistency, colour: strengths of the
    corrections by low_res (`consistency.Agreement`) at the end; of consistency also in answers at levels up to consistency_sigma.
    """

    grid: ClassVar[str] = "power"  # becomes a field when there is a second grid
    sampler: Literal[tuple(SAMPLERS)] = "dpmpp_2m"  # type: ignore[valid-type]
    num_steps: Annotated[int, Field(ge=1, le=1000)] = 16
    sigma_min: Level = 0.005
    sigma_max: Level = 80.0
    rho: Annotated[float, Field(ge=0.1, le=1000)] = 7.0
    guidance_scale: Scale = 1.0
    guidance_text: Annotated[Scale | None, LATER] = None
    guidance_label: Annotated[Scale | None, LATER] = None
    guidance_interval: tuple[NonNegative, NonNegative] = (0.0, 1e9)
    autoguidance_scale: Annotated[Scale, LATER] = 1.0
    autoguidance_interval: Annotated[tuple[NonNegative, NonNegative], LATER] = (0.0, 1e9)
    guidance_every: Annotated[int, Field(ge=1, le=1000), LATER] = 1
    guidance_rescale: Annotated[Fraction, LATER] = 0.0
    dynamic_threshold: Annotated[Fraction, LATER] = 1.0
    anneal_scale: Annotated[NonNegative, LATER] = 0.0
    anneal_levels: Annotated[tuple[Level, Level], LATER] = (1.0, 10.0)
    aug_sigma: NonNegative = 0.0
    consistency: Annotated[Fraction, LATER] = 0.0
    consistency_sigma: Annotated[NonNegative, LATER] = 0.0
    colour: Annotated[Fraction, LATER] = 0.0

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.sigma_min >= self.sigma_max:
            raise ValueError(f"sigma_min {self.sigma_min} must be below sigma_max {self.sigma_max}")
        for name in ("guidance_interval", "autoguidance_interval"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} ({low}, {high}) is empty; write the lower level first")
        low, high = self.anneal_levels
        if low >= high:
            raise ValueError(f"anneal_levels ({low}, {high}): write the lower level first, it must be below the other")
        _ = self.sigmas
        return self

    @model_validator(mode="after")
    def _read(self) -> Self:
        for name in all_options():
            if name in self.model_fields_set and name not in self.options:
                samplers = " or ".join(sampler for sampler, kind in SAMPLERS.items() if name in kind.options)
                raise ValueError(
                    f"{name} is an option of {samplers}, not of {self.sampler}; leave it out, or set sampler to {samplers}"
                )
        return self

    @model_serializer(mode="wrap")
    def _without_unread(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        unread = all_options().keys() - self.options.keys()
        unread |= {name for name in CONTROLS if getattr(self, name) == type(self).model_fields[name].default}
        return {name: value for name, value in handler(self).items() if name not in unread and value is not None}

    @property
    def options(self) -> dict[str, Any]:
        """Values of the sampler's own options."""
        return {name: getattr(self, name) for name in SAMPLERS[self.sampler].options}

    def scale_of(self, part: str) -> float:
        """The guidance scale of a part of the cond, "text" or "label"."""
        own = {"text": self.guidance_text, "label": self.guidance_label}[part]
        return self.guidance_scale if own is None else own

    @property
    def sigmas(self) -> "Tensor":
        """Levels (num_steps + 1,) from the grid."""
        return GRIDS[self.grid].levels(self)
