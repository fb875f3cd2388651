"""The config of a stage's training; amounts are counted in images."""

from typing import TYPE_CHECKING, Annotated, Literal, Self, TypeAlias

from pydantic import Field, PositiveInt, model_validator

from data.read.streams import default_streams, largest_divisor

from .objectives.config import ObjectiveConfig
from .objectives.denoising_config import DenoisingConfig
from .objectives.registry import OBJECTIVES
from .strict import Fraction, NonNegative, PositiveFloat, Strict, one_of
from .texts import LATER
from .warp_config import WarpConfig

if TYPE_CHECKING:
    TowardsConfig: TypeAlias = ObjectiveConfig
else:
    TowardsConfig = one_of(OBJECTIVES, default="denoising")


class TrainConfig(Strict):
    """Training settings. `batch` is the global one, over ranks and accumulation; `micro_batch` is one forward pass of one rank.

    `streams` fixes the order of the data (data/README.md) and must divide `batch`; the default is the largest divisor up to 8.
    """

    images: PositiveInt = 200_000
    batch: PositiveInt = 32
    micro_batch: PositiveInt | None = None
    streams: PositiveInt = Field(default_factory=lambda values: default_streams(values.get("batch", 8)))
    workers: Annotated[int, Field(ge=0)] = 1
    seed: int = 0
    init: Annotated[str, LATER] = ""  # folder of the bundle whose weights a run starts from; "": random ones
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
    )  # half-lives in images; the first goes into the bundle
    precision: Literal["fp32", "bf16", "fp16"] = "bf16"
    compile: bool | Literal["auto"] = "auto"  # auto: on a GPU; on a CPU compiling takes minutes and gains little
    checkpoint_activations: bool = False
    flip: bool = False
    augment: Annotated[WarpConfig, LATER] = WarpConfig.defaults()
    max_skipped: Annotated[int, Field(ge=0)] = 10
    save_every: PositiveInt = 20_000
    log_every: PositiveInt = 2_000
    grid_every: PositiveInt = 20_000
    snapshot_every: Annotated[int, Field(ge=0)] = 0
    val_images: Annotated[int, Field(ge=0)] = 256
    score_every: Annotated[int, Field(ge=0), LATER] = 0  # 0: never
    score_images: Annotated[int, Field(ge=4), LATER] = 320  # what KID on 32 numbers a picture wants
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
            divisor = largest_divisor(self.batch, self.streams)
            larger = self.streams * -(-self.batch // self.streams)
            raise ValueError(
                f"batch {self.batch} is no multiple of streams {self.streams}; set streams={divisor}, or batch={larger}"
            )
        return self
