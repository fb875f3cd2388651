"""Which picture comes when: permutations that are the same on every machine, and the search for a position in them.

Based on raw PCG64 words, whose sequence numpy guarantees (unlike that of its `permutation`). The shard orders of all
epochs are one long sequence of words, so a position is found without a new generator for each epoch.
"""

from collections.abc import Sequence

import numpy as np

WORDS_AT_ONCE = 1 << 16


def permutation(num: int, *where: int) -> np.ndarray:
    """A permutation of range(num), determined by the seed words `where`."""
    random_words = np.random.PCG64(np.random.SeedSequence(where)).random_raw(num)
    return np.argsort(random_words, kind="stable")


def shard_orders(num: int, seed: int, first: int, epochs: int) -> np.ndarray:
    """(epochs, num): the order of `num` shards in each of `epochs` epochs, starting at epoch `first`."""
    generator = np.random.PCG64(np.random.SeedSequence((seed,)))
    generator.advance(first * num)
    return np.argsort(generator.random_raw(epochs * num).reshape(epochs, num), axis=1, kind="stable")


def find(position: int, counts: Sequence[int], seed: int, stream: int, streams: int) -> tuple[int, int]:
    """(epoch, position in it) of sample number `position` of a stream. counts: number of samples of each shard."""
    num, sizes, first = len(counts), np.asarray(counts, np.int64), 0
    epochs = max(1, WORDS_AT_ONCE // num)
    while True:
        orders = shard_orders(num, seed, first, epochs)[:, stream::streams]
        ends = sizes[orders].sum(axis=1).cumsum()
        if position < ends[-1]:
            k = int(np.searchsorted(ends, position, side="right"))
            return first + k, position - (int(ends[k - 1]) if k else 0)
        position -= int(ends[-1])
        first += epochs
