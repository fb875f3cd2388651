"""What a stage is, as data: frozen, strict, complete. The same text stands in the cascade's YAML and in a bundle's stage.json.

Levels of sigma and aug_sigma are noise std in units of pictures in [-1, 1]; amounts of training are counted in images.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, TypeAlias

from pydantic import (
    Field,
    PositiveInt,
    SerializerFunctionWrapHandler,
    create_model,
    model_serializer,
    model_validator,
)

from data.errors import TAGS
from data.index import TEXT_TOKENS
from data.streams import default_streams, largest_divisor

from .diffusion.grids import GRIDS
from .diffusion.samplers import SAMPLERS, Option, all_options
from .nets.config import NetworkConfig
from .nets.registry import NETWORKS
from .objectives.config import ObjectiveConfig
from .objectives.denoising_config import DenoisingConfig
from .objectives.registry import OBJECTIVES
from .spaces.config import SpaceConfig
from .spaces.pixels_config import PixelsConfig
from .spaces.registry import SPACES
from .strict import Fraction, Level, NonNegative, PositiveFloat, Strict, one_of
from .texts import LATER

if TYPE_CHECKING:
    from torch import Tensor

    from .diffusion.parametrisation import Parametrisation
    from .nets.ports import Ports
    from .spaces.space import Size


if TYPE_CHECKING:
    NetConfig: TypeAlias = NetworkConfig
    TowardsConfig: TypeAlias = ObjectiveConfig
else:
    NetConfig = one_of(NETWORKS, default="unet")
    TowardsConfig = one_of(OBJECTIVES, default="denoising")


class TextConfig(Strict):
    """Frozen token features: `encoder` and `packed_tokens` as given to data.pack (--text-encoder, --text-tokens), `dim` numbers
    each; the network reads the first `tokens` of them.

    A token's features depend on all tokens that the encoder saw with it, so sampling encodes at `packed_tokens`, too.
    """

    encoder: str
    dim: PositiveInt
    tokens: PositiveInt
    packed_tokens: PositiveInt = TEXT_TOKENS

    @model_validator(mode="before")
    @classmethod
    def _packed_as_usual(cls, values: Any) -> Any:
        """What texts of older versions leave out: the packer's default, or more where the network reads more."""
        if isinstance(values, dict) and isinstance(tokens := values.get("tokens"), int):
            return {"packed_tokens": max(TEXT_TOKENS, tokens)} | values
        return values

    @model_validator(mode="after")
    def _enough(self) -> Self:
        if self.tokens > self.packed_tokens:
            raise ValueError(
                f"tokens {self.tokens} is more than packed_tokens {self.packed_tokens}; "
                f"pack with --text-tokens {self.tokens} and set packed_tokens to it"
            )
        return self


class CondConfig(Strict):
    """What the pictures are conditioned on. `drop`: share of training images whose condition is replaced by the null one."""

    text: TextConfig | None = None
    num_classes: Annotated[int, Field(ge=0)] = 0
    drop: Fraction = 0.1

    @property
    def names(self) -> tuple[str, ...]:
        """The parts of a condition that training drops, and guidance leaves out."""
        return ("label",) * bool(self.num_classes) + ("text",) * bool(self.text)


class NoiseConfig(Strict):
    """Training levels: log(sigma) ~ N(mean, std^2)."""

    sigma_data: PositiveFloat = 0.5
    mean: float = -1.2
    std: PositiveFloat = 1.2


def key_of(option: Option) -> Any:
    """The type and the default of a sampler's option, as a key that texts leave out at its default."""
    bounds = Field(ge=option.low, le=option.high, description=option.help)
    number = Annotated[float, Field(allow_inf_nan=False)] if isinstance(option.default, float) else int
    return Annotated[number, bounds, LATER], option.default


if TYPE_CHECKING:
    SamplerOptions: TypeAlias = Strict
else:
    SamplerOptions = create_model(
        "SamplerOptions", __base__=Strict, **{name: key_of(option) for name, option in all_options().items()}
    )


class SampleConfig(SamplerOptions):
    """Sampling settings; the manifest keeps one per stage and a request may change them. What only some samplers read is said only
    where the sampler is one of those."""

    grid: ClassVar[str] = "power"  # a field as soon as there is another
    sampler: Literal[tuple(SAMPLERS)] = "dpmpp_2m"  # type: ignore[valid-type]
    num_steps: Annotated[int, Field(ge=1, le=1000)] = 16
    sigma_min: Level = 0.005
    sigma_max: Level = 80.0
    rho: Annotated[float, Field(ge=0.1, le=1000)] = 7.0
    guidance_scale: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] = 1.0
    guidance_interval: tuple[NonNegative, NonNegative] = (0.0, 1e9)
    aug_sigma: NonNegative = 0.0

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.sigma_min >= self.sigma_max:
            raise ValueError(f"sigma_min {self.sigma_min} must be below sigma_max {self.sigma_max}")
        low, high = self.guidance_interval
        if low > high:
            raise ValueError(f"guidance_interval ({low}, {high}) is empty; write the lower level first")
        _ = self.sigmas
        return self

    @model_validator(mode="after")
    def _read(self) -> Self:
        for name in all_options():
            if name in self.model_fields_set and name not in self.options:
                readers = " or ".join(word for word, kind in SAMPLERS.items() if name in kind.options)
                raise ValueError(
                    f"{name} is an option of {readers}, not of {self.sampler}; leave it out, or set sampler to {readers}"
                )
        return self

    @model_serializer(mode="wrap")
    def _without_unread(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        unread = all_options().keys() - self.options.keys()
        return {name: value for name, value in handler(self).items() if name not in unread}

    @property
    def options(self) -> dict[str, Any]:
        """What the sampler reads besides the levels."""
        return {name: getattr(self, name) for name in SAMPLERS[self.sampler].options}

    @property
    def sigmas(self) -> "Tensor":
        """(num_steps + 1,), as the grid gives them."""
        return GRIDS[self.grid].levels(self)


class TrainConfig(Strict):
    """How a stage trains. `batch` is the global one, over ranks and accumulation; `micro_batch` is one forward of one rank.

    `streams` fixes the order of the data (data/README.md): it must divide `batch`; whoever says nothing gets the largest
    divisor up to 8.
    """

    images: PositiveInt = 200_000
    batch: PositiveInt = 32
    micro_batch: PositiveInt | None = None
    streams: PositiveInt = Field(default_factory=lambda values: default_streams(values.get("batch", 8)))
    workers: Annotated[int, Field(ge=0)] = 1
    seed: int = 0
    objective: Annotated[TowardsConfig, LATER] = DenoisingConfig.defaults()
    optimizer: str = "adamw"
    lr: PositiveFloat = 3e-2
    warmup: Annotated[int, Field(ge=0)] = 5_000
    schedule: Literal["constant", "cosine", "rsqrt"] = "cosine"
    betas: tuple[Fraction, Fraction] = (0.9, 0.99)
    weight_decay: NonNegative = 0.0
    clip: PositiveFloat = 1.0
    ema: tuple[PositiveInt, ...] = Field(
        default=(5_000, 20_000), min_length=1
    )  # half-lives in images; the first is the bundle
    precision: Literal["fp32", "bf16", "fp16"] = "bf16"
    compile: bool | Literal["auto"] = "auto"  # auto: on a GPU; on a CPU compiling takes minutes and gains little
    checkpoint_activations: bool = False
    flip: bool = False
    max_skipped: Annotated[int, Field(ge=0)] = 10
    save_every: PositiveInt = 20_000
    log_every: PositiveInt = 2_000
    grid_every: PositiveInt = 20_000
    snapshot_every: Annotated[int, Field(ge=0)] = 0
    val_images: Annotated[int, Field(ge=0)] = 256
    keep: PositiveInt = 2

    @model_validator(mode="after")
    def _falls_from(self) -> Self:
        if self.schedule == "rsqrt" and not self.warmup:
            raise ValueError(
                "schedule rsqrt falls from the end of the warm-up on, and warmup is 0; "
                f"set warmup to a tenth of the images, for instance {max(self.images // 10, 1)}"
            )
        return self

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        if self.batch % self.streams:
            fitting = largest_divisor(self.batch, self.streams)
            larger = self.streams * -(-self.batch // self.streams)
            raise ValueError(
                f"batch {self.batch} is no multiple of streams {self.streams}; set streams={fitting}, or batch={larger}"
            )
        return self


class AugConfig(Strict):
    """Conditioning augmentation in training: aug_sigma = max_sigma * u^2, u uniform, drawn per image; 0 is allowed in sampling."""

    max_sigma: NonNegative = 1.0


if TYPE_CHECKING:
    AnySpace: TypeAlias = SpaceConfig
else:
    AnySpace = one_of(SPACES, default="pixels")


class StageBase(Strict):
    """What all kinds of stage have. `resolution` and `channels` are of the pictures that it gives. Sizes are (height, width) in px,
    but for `size` and `shape`, which are of x0.

    `takes`, `factor` and `max_aug_sigma` tell others of the stage below, whatever the kind.

    `stage`: where the kind's class stands, module:name; loaded when one is built, for configs are read where torch is not.
    """

    stage: ClassVar[str]
    if TYPE_CHECKING:
        kind: str

    resolution: PositiveInt
    channels: PositiveInt = 3
    space: Annotated[AnySpace, LATER] = PixelsConfig.defaults()
    net: NetConfig
    cond: CondConfig = CondConfig.defaults()
    noise: NoiseConfig = NoiseConfig.defaults()
    train: TrainConfig = TrainConfig.defaults()
    sample: SampleConfig = SampleConfig.defaults()

    @property
    def multiple(self) -> int:
        """Image sides must be multiples of this."""
        return self.net.multiple * self.space.scale

    @property
    def gives(self) -> "Size":
        """Of the stage's own pictures."""
        return (self.resolution, self.resolution)

    @property
    def takes(self) -> "Size | None":
        """Of the stage below's pictures; None for a stage that starts from nothing."""
        return None

    def shape(self, size: "Size") -> tuple[int, ...]:
        """(c, *size) of the x0 of a picture of `size`, along the axes of the stage's space."""
        return self.space.shape(self.channels, size)

    @property
    def size(self) -> "Size":
        """Of the stage's own x0."""
        return self.shape(self.gives)[1:]

    @property
    def factor(self) -> int:
        """How many times larger this stage makes what it takes."""
        return 1

    @property
    def train_size(self) -> int:
        """Side in px of what the network sees in training."""
        return self.resolution

    @property
    def max_aug_sigma(self) -> float:
        """The largest augmentation of what it takes that it was trained on."""
        return 0.0

    @property
    def parametrisation(self) -> "Parametrisation":
        from .diffusion.parametrisation import EDM

        return EDM(sigma_data=self.noise.sigma_data)

    @property
    def ports(self) -> "Ports":
        """What the network is given and gives."""
        from .nets.ports import Ports

        text, (channels, *_) = self.cond.text, self.shape(self.gives)
        return Ports(
            inputs=channels,
            outputs=channels,
            classes={"label": self.cond.num_classes} if self.cond.num_classes else {},
            tokens={"text": text.dim} if text else {},
        )

    def _check_multiple(self, name: str, size: int) -> None:
        if size % self.multiple:
            own, scale = f"{self.net.multiple} = {self.net.multiple_rule}", self.space.scale
            cells = f"{self.multiple}, {scale} px a cell of space {self.space.kind} times " if scale > 1 else ""
            raise ValueError(f"{name} {size} is no multiple of {cells}{own}")


class BaseConfig(StageBase):
    """p(x0 | cond) at `resolution`."""

    stage: ClassVar[str] = "stages.kinds.base:BaseStage"
    kind: Literal["base"] = "base"

    @model_validator(mode="after")
    def _fits(self) -> Self:
        self._check_multiple("resolution", self.resolution)
        return self


class SuperResConfig(StageBase):
    """p(x0 | low_res, cond): low_res px to resolution px, trained on aligned crops of `crop` px (0: whole pictures).

    low_res_sigma: std of x0 - upsample(low_res) in the data, the error that upsampling alone leaves (for preconditioning).
    """

    stage: ClassVar[str] = "stages.kinds.super_res:SuperResStage"
    kind: Literal["super_res"] = "super_res"
    low_res: PositiveInt
    crop: Annotated[int, Field(ge=0)] = 0
    low_res_sigma: PositiveFloat = 0.2
    aug: AugConfig = AugConfig.defaults()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.resolution % self.low_res or self.resolution == self.low_res:
            raise ValueError(
                f"resolution {self.resolution} must be a multiple of low_res {self.low_res}, at least twice as large"
            )
        if self.low_res % self.space.scale:
            raise ValueError(
                f"low_res {self.low_res} is no multiple of {self.space.scale} = px a cell of space {self.space.kind}"
            )
        if self.crop > self.resolution or self.crop % (self.factor * self.space.scale):
            raise ValueError(
                f"crop {self.crop} must be at most {self.resolution} and a multiple of the factor {self.factor}"
                + f" times {self.space.scale} px a cell of space {self.space.kind}" * (self.space.scale > 1)
            )
        if self.crop and self.net.reach is None:
            raise ValueError(
                f"{self.net.reach_rule} with crop > 0: attention over a crop is not attention over the picture; drop one"
            )
        self._check_multiple("crop" if self.crop else "resolution", self.crop or self.resolution)
        self._check_multiple("resolution", self.resolution)
        if self.sample.aug_sigma > self.aug.max_sigma:
            raise ValueError(
                f"sample.aug_sigma {self.sample.aug_sigma} is above aug.max_sigma {self.aug.max_sigma}: never trained"
            )
        return self

    @property
    def takes(self) -> "Size":
        return (self.low_res, self.low_res)

    @property
    def factor(self) -> int:
        return self.resolution // self.low_res

    @property
    def train_size(self) -> int:
        return self.crop or self.resolution

    @property
    def max_aug_sigma(self) -> float:
        return self.aug.max_sigma

    @property
    def parametrisation(self) -> "Parametrisation":
        from .diffusion.parametrisation import EDM

        return EDM(sigma_data=self.noise.sigma_data, low_res_sigma=self.low_res_sigma)

    @property
    def ports(self) -> "Ports":
        own = super().ports
        return replace(own, inputs=2 * own.inputs, levels=("aug",))


KINDS: dict[str, type[StageBase]] = {"base": BaseConfig, "super_res": SuperResConfig}
if TYPE_CHECKING:
    StageConfig: TypeAlias = StageBase
else:
    StageConfig = one_of(KINDS)

TAGS.update((*NETWORKS, *OBJECTIVES, *SPACES, *KINDS))
