"""The interface of shapers: hooks between a network's answer and the sampler, and at the end of a stage.

`stages.consistency.Agreement` is one, which corrects x0 by low_res.
"""

from typing import Protocol

from torch import Tensor

from stages.diffusion.samplers import Answer, Query


class Shaper(Protocol):
    """Rewrites answers and results of a stage."""

    def each(self, query: Query, answer: Answer) -> Answer:
        """Rewrite an answer before it is shown and given to the sampler."""
        ...

    def finish(self, x0: Tensor) -> Tensor:
        """Rewrite the stage's x0, on the whole canvas, before it is stored."""
        ...
