"""The protocol of samplers: coroutines that yield queries and are sent answers.

    answer = yield Query(x, sigma)

They never hold a network: `drive` runs a single one, an engine runs many at once in shared batches, and every answer can serve as a
preview. x (b, c, *size) at sigmas[0]; sigmas (num_steps + 1,) float64 on the CPU, strictly decreasing. The last is 0, or the level
at which a truncated sampler stops and returns x.
"""

import itertools
import math
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # configs import this module without torch
    import torch
    from torch import Tensor

    from .denoiser import Denoiser


@dataclass(frozen=True)
class Query:
    """A request for x0_hat of x (b, c, *size) at noise levels sigma (b,).

    rows (b,) int64: which images of the batch are queried, if not all; None: all.
    """

    x: "Tensor"
    sigma: "Tensor"
    rows: "Tensor | None" = None

    def to(self, device: "torch.device | str") -> "Query":
        """The same query on a device."""
        return Query(self.x.to(device), self.sigma.to(device), None if self.rows is None else self.rows.to(device))


@dataclass(frozen=True)
class Answer:
    """Answer to a query: x0_hat (b, c, *size), and var of the same shape, Var(x0 | x), if the network predicts it."""

    x0_hat: "Tensor"
    var: "Tensor | None" = None

    def to(self, device: "torch.device | str") -> "Answer":
        """The same answer on a device."""
        return Answer(self.x0_hat.to(device), None if self.var is None else self.var.to(device))


Sampler = Generator[Query, Answer, "Tensor"]
"""Yields queries, receives answers, returns the finished x0."""

Noise = Callable[[str, tuple[int, ...]], "Tensor"]
"""Draws standard normal (b, ...) for a purpose and a shape; row k is a function of (seed, index[k], stage, purpose) alone. "start"
and "aug" are reserved: a sampler that draws noise on its way uses its own purposes, a new one at each step."""


def query(x: "Tensor", sigma: float) -> Query:
    """Query a batch at one common level."""
    return Query(x, x.new_full((len(x),), sigma))


def drive(sampler: Sampler, denoise: "Denoiser") -> "Tensor":
    """Run one sampler to its end with one denoiser."""
    try:
        query = next(sampler)
        while True:
            query = sampler.send(Answer(denoise(query.x, query.sigma)))
    except StopIteration as stop:
        return stop.value


def intervals(sigmas: "Tensor") -> list[tuple[float, float]]:
    """Pairs (sigma, next sigma), one a step. Raises ValueError for levels that no sampler can visit."""
    levels = sigmas.double().tolist()
    if len(levels) < 2 or not levels[-1] >= 0 or not all(math.inf > a > b for a, b in itertools.pairwise(levels)):
        raise ValueError(
            f"sampler: sigmas must be finite, fall strictly and end at 0 or above, at least two of them; got {levels}"
        )
    return list(itertools.pairwise(levels))


def noised(x: "Tensor", std: float, noise: Noise, purpose: str) -> "Tensor":
    """Add fresh noise of std >= 0 to x; nothing is drawn for 0."""
    return x + std * noise(purpose, tuple(x.shape)).to(x) if std > 0 else x
