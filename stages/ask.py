"""Ask: a query together with everything a network needs to answer it."""

from dataclasses import dataclass, replace
from typing import Self

import torch

from data.batch import Cond

from .diffusion.samplers import Query


@dataclass(frozen=True, kw_only=True)
class Ask:
    """A query with the cond to answer it under.

    second: its rows come after those of all other asks in a shared call, so that conditional rows precede unconditional ones.
    """

    query: Query
    cond: Cond
    second: bool = False

    def to(self, device: torch.device | str) -> Self:
        """The same ask on a device."""
        return replace(self, query=self.query.to(device), cond=self.cond.to(device))

    @property
    def rows(self) -> int:
        """Number of rows in the network's batch."""
        return len(self.query.x)

    @property
    def size(self) -> tuple[int, ...]:
        """Sides of x0 along the axes of its space."""
        return tuple(self.query.x.shape[2:])

    @property
    def make(self) -> tuple:
        """Shapes of x and cond: asks of equal make can share a batch."""
        return self.query.x.shape[1:], self.cond.make


OWN = "own"

NamedAsks = list[tuple[str, Ask]]
"""Asks, each with the name of the host that answers it: OWN for the sampling stage's network, others resolved by the driver."""
