"""A question to a network, with all that it must know to answer."""

from dataclasses import dataclass

from data.batch import Cond

from .diffusion.samplers import Query


@dataclass(frozen=True, kw_only=True)
class Ask:
    """second: its rows come after all that are not, where several share a call: conditional rows first, then unconditional ones."""

    query: Query
    cond: Cond
    second: bool = False

    @property
    def rows(self) -> int:
        """Rows of the network's batch."""
        return len(self.query.x)

    @property
    def size(self) -> tuple[int, ...]:
        """Of its x0 along the axes of the space."""
        return tuple(self.query.x.shape[2:])

    @property
    def make(self) -> tuple:
        """Asks of the same make can share a batch."""
        return self.query.x.shape[1:], self.cond.make


OWN = "own"

NamedAsks = list[tuple[str, Ask]]
"""Asks with the names of who shall answer them: OWN is the network of the stage that samples. Whoever drives knows the others."""
