"""The config of a stage's sampling."""

import math
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeAlias

from pydantic import Field, SerializerFunctionWrapHandler, create_model, model_serializer, model_validator

from .diffusion.grids import GRIDS, grid_options
from .diffusion.option import Option
from .diffusion.samplers import SAMPLERS, all_options, num_queries
from .strict import Fraction, Level, NonNegative, Strict
from .texts import LATER

if TYPE_CHECKING:
    from torch import Tensor


Side = Annotated[int, Field(ge=0, le=1 << 20)]
Scale = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
UNTOLD = (0, 0)
"""The `original_size` that stands for none told."""
CONTROLS = (
    "autoguidance_scale", "autoguidance_interval", "guidance_every", "guidance_rescale", "dynamic_threshold", "anneal_scale",
    "anneal_levels", "control_scale", "sigma_end", "handover",
)  # fmt: skip
"""Keys that are written only where they differ from their defaults, which are off."""


def key_of(option: Option) -> Any:
    """Type and default of an option as a config key, which texts omit at its default."""
    if option.choices:
        return Annotated[Literal[option.choices], Field(description=option.help), LATER], option.default
    bounds = Field(ge=option.low, le=option.high, description=option.help)
    value_type = Annotated[float, Field(allow_inf_nan=False)] if isinstance(option.default, float) else int
    return Annotated[value_type, bounds, LATER], option.default


OPTIONS = all_options() | grid_options()
WORDS = {"sampler", "grid", "handover", *(name for name, option in OPTIONS.items() if option.choices)}
"""Names of the settings whose value is a word."""

if TYPE_CHECKING:
    SamplerOptions: TypeAlias = Strict
else:
    SamplerOptions = create_model(
        "SamplerOptions", __base__=Strict, **{name: key_of(option) for name, option in OPTIONS.items()}
    )


class SampleConfig(SamplerOptions):
    """Sampling settings; the manifest keeps one per stage and a request may change them. Options that only some samplers or grids
    read may be given only with one of those.

    guidance_text, guidance_label: scales of one condition; by default guidance_scale. autoguidance_scale, autoguidance_interval:
    the scale of the difference from the stage's guide, and the levels where it acts. guidance_every: calls for which a difference
    serves. guidance_rescale: share of the way to the conditional answer's std. dynamic_threshold: percentile, 1: none.
    anneal_scale, anneal_levels: noise on the text, all of it above the second level, none below the first.
    sigma_end: the level at which the stage stops, 0: at the end; handover: what the next stage is given then, the noisy x or the
    estimate x0_hat. control_scale: of what a control net adds; 0: the frozen network alone.
    strength: with a source, how much of the way to noise it goes; resample: of a masked one, how often each step is made.
    consistency, colour: strengths of the corrections by low_res (`consistency.Agreement`) at the end; of consistency also in
    answers at levels up to consistency_sigma.
    original_size: (height, width) in px of which a stage with cond.original_size is told, by default that of its picture; (0, 0)
    is none.
    """

    grid: Annotated[Literal[tuple(GRIDS)], LATER] = "power"  # type: ignore[valid-type]
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
    control_scale: Annotated[Scale, LATER] = 1.0
    aug_sigma: NonNegative = 0.0
    sigma_end: Annotated[NonNegative, LATER] = 0.0
    handover: Annotated[Literal["x", "x0_hat"], LATER] = "x"
    strength: Annotated[float, Field(gt=0, le=1), LATER] = 1.0
    resample: Annotated[int, Field(ge=1, le=100), LATER] = 1
    consistency: Annotated[Fraction, LATER] = 0.0
    consistency_sigma: Annotated[NonNegative, LATER] = 0.0
    colour: Annotated[Fraction, LATER] = 0.0
    original_size: Annotated[tuple[Side, Side] | None, LATER] = None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.sigma_min >= self.sigma_max:
            raise ValueError(f"sigma_min {self.sigma_min} must be below sigma_max {self.sigma_max}")
        for name in ("guidance_interval", "autoguidance_interval"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} ({low}, {high}) is empty; write the lower level first")
        if self.original_size is not None and 0 in self.original_size and any(self.original_size):
            raise ValueError(
                f"original_size {self.original_size}: write height and width above 0, or both 0 for a size that is not told"
            )
        low, high = self.anneal_levels
        if low >= high:
            raise ValueError(f"anneal_levels ({low}, {high}): write the lower level first, it must be below the other")
        _ = self.levels
        return self

    @model_validator(mode="after")
    def _read(self) -> Self:
        for what, chosen, kinds in (
            ("sampler", self.sampler, samplers_reading()),
            ("grid", self.grid, grids_reading()),
        ):
            for name, readers in kinds.items():
                if name in self.model_fields_set and chosen not in readers:
                    others = " or ".join(readers)
                    raise ValueError(
                        f"{name} is an option of {others}, not of {chosen}; leave it out, or set {what} to {others}"
                    )
        return self

    @model_serializer(mode="wrap")
    def _without_unread(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        unread = unread_by(sampler=self.sampler, grid=self.grid)
        unread |= {"grid"} if self.grid == "power" else set()
        unread |= {name for name in CONTROLS if getattr(self, name) == type(self).model_fields[name].default}
        return {name: value for name, value in handler(self).items() if name not in unread and value is not None}

    @property
    def options(self) -> dict[str, Any]:
        """Values of the sampler's own options."""
        return {name: getattr(self, name) for name in SAMPLERS[self.sampler].options}

    def scale_of(self, part: str) -> float:
        """The guidance scale of a part of the cond: "text" and "label" may have their own."""
        own = {"text": self.guidance_text, "label": self.guidance_label}.get(part)
        return self.guidance_scale if own is None else own

    @property
    def sigmas(self) -> "Tensor":
        """Levels (num_steps + 1,) from the grid."""
        return GRIDS[self.grid].levels(self)

    @property
    def levels(self) -> "Tensor":
        """The levels that a stage of a cascade visits: `sigmas`, or those above sigma_end and sigma_end itself, then 0 if x0_hat is
        handed on, which every sampler gives there. Raises ValueError for a sigma_end outside of its levels."""
        from .diffusion.noise import until

        if not self.sigma_end:
            return self.sigmas
        levels = until(self.sigmas, self.sigma_end, self.sigma_min)
        return levels.new_tensor([*levels.tolist(), 0]) if self.handover == "x0_hat" else levels

    @property
    def queries(self) -> int:
        """Queries of the sampler over `levels`, at most."""
        num = len(self.levels) - 1
        if self.sigma_end and self.handover == "x":
            return num_queries(self.sampler, num + 1, self.options) - 1  # all but that of a last step to 0
        return num_queries(self.sampler, num, self.options)

    @property
    def sigma_start(self) -> float:
        """The first level: sigma_max, or below where a schedule of discrete levels does not visit it."""
        first = self.sigmas[0].item()
        return self.sigma_max if math.isclose(first, self.sigma_max, rel_tol=1e-9) else first


def samplers_reading() -> dict[str, list[str]]:
    """The samplers that read each option."""
    return {name: [each for each, kind in SAMPLERS.items() if name in kind.options] for name in all_options()}


def grids_reading() -> dict[str, list[str]]:
    """The grids that read each setting that some grid reads."""
    names = dict.fromkeys(name for kind in GRIDS.values() for name in kind.reads)
    return {name: [each for each, kind in GRIDS.items() if name in kind.reads] for name in names}


def unread_by(*, sampler: str = "", grid: str = "") -> set[str]:
    """The settings that this sampler, or this grid, does not read though others do. "": of none."""
    unread = {name for name, readers in samplers_reading().items() if sampler and sampler not in readers}
    return unread | {name for name, readers in grids_reading().items() if grid and grid not in readers}
