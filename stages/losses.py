"""The return value of a stage's forward."""

from typing import NamedTuple

from torch import Tensor


class Losses(NamedTuple):
    """Losses of a batch. loss (): the mean, to be minimised. per_image, sigma (b,): detached, for the log.

    A tuple, because DeepSpeed searches the output for tensors to detect the start of the backward pass.
    """

    loss: Tensor
    per_image: Tensor
    sigma: Tensor
