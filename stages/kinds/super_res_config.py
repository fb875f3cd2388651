"""The config of a super-resolution stage."""

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from ..degrade_config import DegradeConfig
from ..strict import NonNegative, PositiveFloat, Strict
from ..texts import LATER
from .config import StageBase

if TYPE_CHECKING:
    from ..diffusion.parametrisation import Parametrisation
    from ..nets.ports import Ports
    from ..spaces.space import Size


class AugConfig(Strict):
    """Conditioning augmentation in training: aug_sigma = max_sigma * u^2, u uniform per image. Sampling may use any level up to
    max_sigma, also 0."""

    max_sigma: NonNegative = 1.0


class SuperResConfig(StageBase):
    """p(x0 | low_res, cond): from low_res px to resolution px, trained on aligned crops of `crop` px (0: whole pictures).

    low_res_sigma: std of x0 - upsample(low_res) in the data, the error of upsampling alone (for preconditioning).
    """

    implementation: ClassVar[str] = "stages.kinds.super_res:SuperResStage"
    kind: Literal["super_res"] = "super_res"
    low_res: PositiveInt
    crop: Annotated[int, Field(ge=0)] = 0
    low_res_sigma: PositiveFloat = 0.2
    aug: AugConfig = AugConfig.defaults()
    degrade: Annotated[DegradeConfig, LATER] = DegradeConfig.defaults()

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
        if self.degrade.probability and (self.channels, self.space.kind) != (3, "pixels"):
            raise ValueError(
                f"degrade is for pictures of 3 channels in the space pixels, not {self.channels} in {self.space.kind}; "
                "leave it out"
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
        """Size of the pictures from the stage below."""
        return (self.low_res, self.low_res)

    @property
    def factor(self) -> int:
        """Upsampling factor, resolution / low_res."""
        return self.resolution // self.low_res

    @property
    def train_size(self) -> int:
        """Side of the crops, or of whole pictures without crops."""
        return self.crop or self.resolution

    @property
    def max_aug_sigma(self) -> float:
        """Largest aug_sigma in training, hence in sampling."""
        return self.aug.max_sigma

    @property
    def preconditioning(self) -> "Parametrisation":
        """The parametrisation for two observations, x and low_res."""
        return self.parametrisation.build(sigma_data=self.noise.sigma_data, low_res_sigma=self.low_res_sigma)

    @property
    def ports(self) -> "Ports":
        """As many channels again, for low_res beside x, and the level `aug`."""
        base = super().ports
        return replace(base, inputs=base.inputs + self.shape(self.gives)[0], levels=("aug",))
