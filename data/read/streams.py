"""How a global batch is divided: over streams, over data sets by weight, over ranks and their loader processes."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

TOLERANCE = 0.1  # largest relative error of a weight from rounding to streams
MAX_STREAMS = 4096  # most that an error message proposes


def default_streams(batch: int) -> int:
    """Default number of streams: the largest divisor of the batch up to 8."""
    return largest_divisor(batch, 8)


def largest_divisor(number: int, limit: int) -> int:
    """The largest divisor of `number` (above 0) up to `limit`."""
    return next(divisor for divisor in range(min(number, limit), 0, -1) if number % divisor == 0)


def own_samples(
    *, batch: int, streams: int, rank: int, world: int, worker: int = 0, workers: int = 1
) -> dict[int, range]:
    """The part that one loader process of a rank reads: stream -> range within its batch / streams samples.

    Where ranks x workers divides the streams, each stream has one owner. Otherwise the batch, in the order of streams,
    is cut into equal pieces by rank, and these by worker; processes with parts of the same stream all read its shards.
    """
    share, owners = batch // streams, world * workers
    if streams % owners == 0:
        return {stream: range(share) for stream in range(rank * workers + worker, streams, owners)}
    num = batch // world
    first, end = (rank * num + num * k // workers for k in (worker, worker + 1))
    shared = range(first // share, math.ceil(end / share)) if first < end else ()
    return {stream: range(max(first - stream * share, 0), min(end - stream * share, share)) for stream in shared}


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The numbers that streams have to fit. shards: number of shards of each data set, if known."""

    streams: int
    batch: int = 0
    world: int = 1
    shards: tuple[int, ...] = ()

    def fix(self, weights: Sequence[float]) -> str:
        """Propose streams, and if necessary another batch, that fit the weights and shards of the data sets; "" if none do."""
        candidates = [num for num in self._nearest() if self._fits(num, weights)]
        exact = [num for num in candidates if self.batch % math.lcm(num, self.world) == 0]
        if exact:
            return f"set streams={exact[0]}"
        if not candidates:
            return ""
        unit = math.lcm(candidates[0], self.world)
        return f"set streams={candidates[0]} and batch={max(1, round(self.batch / unit)) * unit}"

    def _nearest(self) -> Iterator[int]:
        """Other numbers of streams: smaller ones first, as fewer shards suffice for them."""
        yield from range(self.streams, 0, -1)
        yield from range(self.streams + 1, MAX_STREAMS)

    def _fits(self, streams: int, weights: Sequence[float]) -> bool:
        counts = largest_remainder(weights, streams)
        has_shards = all(count <= num for count, num in zip(counts, self.shards or counts, strict=True))
        return has_shards and fits(weights, counts)


def largest_remainder(weights: Sequence[float], num: int) -> list[int]:
    """Whole numbers with sum `num`, in proportion to the weights; exact, hence the same on every machine."""
    exact = [Fraction(weight) for weight in weights]
    quotas = [weight * num / sum(exact) for weight in exact]
    counts = [int(quota) for quota in quotas]
    order = sorted(range(len(quotas)), key=lambda k: (counts[k] - quotas[k], k))
    for k in order[: num - sum(counts)]:
        counts[k] += 1
    return counts


def fits(weights: Sequence[float], counts: Sequence[int]) -> bool:
    """Whether each share is within TOLERANCE of its weight."""
    total, num = sum(weights), sum(counts)
    return all(abs(c / num * total / w - 1) <= TOLERANCE + 1e-9 for w, c in zip(weights, counts, strict=True))
