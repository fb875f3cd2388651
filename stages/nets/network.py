"""The interface of a network: how a stage builds, calls, compiles and folds it."""

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from data.batch import Cond


class Network(Protocol):
    """Maps (x (b, c', *size), noise (b,), cond) to F (b, c, *size) float32; x includes the channels concatenated to it.

    It computes in `compute_dtype`; its parameters stay float32. checkpointed: blocks are recomputed in the backward pass instead of
    keeping their activations. F is 0 at the start of training.
    """

    compute_dtype: torch.dtype
    checkpointed: bool

    def __call__(self, x: Tensor, noise: Tensor, cond: Cond) -> Tensor: ...
    def blocks(self) -> Iterator[nn.Module]:
        """Modules that activation checkpointing recomputes."""
        ...

    def fold(self) -> None:
        """Precompute what depends on the weights alone, once, for sampling; outputs stay the same."""
        ...

    def compile(self, **options: Any) -> None:
        """Compile in place, as `torch.nn.Module.compile`."""
        ...
