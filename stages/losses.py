"""What a stage's forward returns."""

from typing import NamedTuple

from torch import Tensor


class Losses(NamedTuple):
    """Of a batch. loss (): the mean to go down. per_image, sigma (b,): detached, for the log.

    A tuple, for DeepSpeed looks for its tensors to know when the backward pass begins.
    """

    loss: Tensor
    per_image: Tensor
    sigma: Tensor
