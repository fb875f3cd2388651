"""The seam of a network: what a stage builds, calls, compiles and folds."""

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from data.batch import Cond


class Network(Protocol):
    """(x (b, c', *size) with what is concatenated to it, noise (b,), cond) to F (b, c, *size) float32.

    It computes in `compute_dtype`; its parameters stay float32. checkpointed: activations of a block are computed again in the
    backward pass. F is 0 at the start of training.
    """

    compute_dtype: torch.dtype
    checkpointed: bool

    def __call__(self, x: Tensor, noise: Tensor, cond: Cond) -> Tensor: ...
    def blocks(self) -> Iterator[nn.Module]: ...  # what is computed again where activations are checkpointed
    def fold(self) -> None: ...  # once, for sampling: what depends on the weights alone; outputs stay the same
    def compile(self, **options: Any) -> None: ...
