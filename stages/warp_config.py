"""The config of the warp, the geometric augmentation of training."""

from typing import Self

from pydantic import model_validator

from .strict import Fraction, Strict


class WarpConfig(Strict):
    """A share `probability` of the training images is moved by up to `shift` (share of the side) along either axis and scaled by
    exp(up to `scale`), up or down, both uniform. At probability 0 the network has no input for it."""

    probability: Fraction = 0.0
    shift: Fraction = 0.125
    scale: Fraction = 0.2

    @model_validator(mode="after")
    def _warps(self) -> Self:
        if self.probability and not (self.shift or self.scale):
            raise ValueError(
                f"probability {self.probability} with shift 0 and scale 0 moves nothing; "
                "set shift or scale above 0, or probability to 0"
            )
        return self
