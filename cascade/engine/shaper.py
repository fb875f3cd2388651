"""The seam of a shaper: what stands between an answer and the sampler, and at the end of a stage."""

from typing import Protocol

from torch import Tensor

from stages.diffusion.samplers import Answer, Query


class Shaper(Protocol):
    """each: rewrites an answer before it is shown and sampled on; finish: the stage's x0, all that its canvas has,
    before it is stored."""

    def each(self, query: Query, answer: Answer) -> Answer: ...
    def finish(self, x0: Tensor) -> Tensor: ...
