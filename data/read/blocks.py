"""Blocks of a stream: read gradually, shuffled, handed out as samples that are decoded when called."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from data.read.captions import Pass
from data.read.samples import Keyed, Row, ShardReader

Slot = Callable[[], Row]


@dataclass(kw_only=True)
class Block:
    """Consecutive samples of one epoch of a stream, still encoded, on their way into memory."""

    epoch: int
    number: int
    num: int
    samples: Iterator[Keyed]
    arrived: list[Keyed] = field(default_factory=list)

    def read(self, num: int | None = None) -> list[Keyed]:
        """Read up to the first `num` samples, by default all; returns those in memory."""
        self.arrived += islice(self.samples, max(0, (self.num if num is None else num) - len(self.arrived)))
        return self.arrived


def first_good(reader: ShardReader, samples: list[Keyed], order: np.ndarray, turn: Pass, place: int) -> Row:
    """Decode the sample at `place` of a block's order, or the next one that is good; turn: draws among several captions."""
    return reader.first_good((samples[order[(place + k) % len(order)]] for k in range(len(order))), turn)
