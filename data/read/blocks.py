"""Blocks of a stream: read by and by, shuffled, given out as samples that are decoded when they are called for."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from data.read.samples import Keyed, Row, ShardReader

Slot = Callable[[], Row]


@dataclass(kw_only=True)
class Block:
    """Consecutive samples of an epoch of a stream, on their way into memory, still encoded."""

    epoch: int
    number: int
    num: int
    samples: Iterator[Keyed]
    arrived: list[Keyed] = field(default_factory=list)

    def read(self, num: int | None = None) -> list[Keyed]:
        """Those that are there when the first `num` are read, by default all."""
        self.arrived += islice(self.samples, max(0, (self.num if num is None else num) - len(self.arrived)))
        return self.arrived


def first_good(reader: ShardReader, samples: list[Keyed], order: np.ndarray, place: int) -> Row:
    """The sample at `place` of a block's order, or the next one that decodes."""
    return reader.first_good(samples[order[(place + k) % len(order)]] for k in range(len(order)))
