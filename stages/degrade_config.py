"""The config of degradations: what a super-resolution stage for real photographs learns to undo besides THE downsample."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from .strict import Fraction, NonNegative, Strict


class DegradeConfig(Strict):
    """A share `probability` of the training images loses more than pixels on the way to low_res, `order` times in a row: it is
    blurred by a Gaussian with stds of up to `blur` px along either axis, shrunk by one of three kernels, gets noise of a std of up
    to `noise`, and goes through JPEG at a quality of `jpeg` or better (100: no JPEG). Strengths are the largest times u^2, u
    uniform, so slight ones are the most frequent. At probability 0 low_res is THE downsample."""

    probability: Fraction = 0.0
    blur: NonNegative = 2.0
    noise: NonNegative = 0.1
    jpeg: Annotated[float, Field(ge=1, le=100)] = 40.0
    order: Annotated[int, Field(ge=1, le=2)] = 1

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.blur > 16:
            raise ValueError(f"blur {self.blur} px is above 16: nothing of the picture would be left; choose less")
        return self
