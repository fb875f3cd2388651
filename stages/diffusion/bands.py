"""Octave bands of pictures by a resize: a sum of filters that is the identity, and each of which sees what the coarser ones miss.

With d a halving by the downsample (linear: THE resize without its clipping) and U its way back, L_k = U^k d^k is a low-pass:

    B_k = L_k - L_(k+1) for k = 0, ..., num - 2,     B_(num - 1) = L_(num - 1),     sum_k B_k = 1

x (b, c, h, w). Sides that are no multiple of 2^(num - 1) are halved upwards: the identity stays exact, but windows do not agree.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

Resize = Callable[[Tensor, tuple[int, int]], Tensor]


@dataclass(frozen=True, kw_only=True)
class Bands:
    """num bands, finest first; one band is the identity. shrink and grow: d and U, linear and keeping constants."""

    num: int
    shrink: Resize
    grow: Resize

    @property
    def multiple(self) -> int:
        """Sides that are multiples of this halve without a rest; windows that begin on one agree with the whole."""
        return 1 << (self.num - 1)

    @property
    def reach(self) -> int:
        """How far from a pixel the pixels lie that decide about its bands: d of THE resize reads 4 px to each side, U 2 px of the
        coarser level, and what lies there again 8 px of its own."""
        return 8 * (self.multiple - 1)

    @property
    def shares(self) -> list[float]:
        """Share of the coefficients in each band: 3/4, 3/16, ..., and what is left for the last."""
        return [0.75 * 0.25**k for k in range(self.num - 1)] + [0.25 ** (self.num - 1)]

    def weighted(self, x: Tensor, weigh: Callable[[int, Tensor], Tensor]) -> Tensor:
        """sum_k B_k w_k(x), each level computed at its own size and once.

        weigh(k, x): w_k(x) - w_(k-1)(x) of x at the size of level k, where w_(-1) = 0; each w_k mixes the channels of a pixel.
        """
        levels = self.pyramid(x)
        total = weigh(self.num - 1, levels[-1])
        for k in range(self.num - 2, -1, -1):
            level = weigh(k, levels[k])
            total = self.grow(total, (level.shape[-2], level.shape[-1])).add_(level)
        return total

    def pyramid(self, x: Tensor) -> list[Tensor]:
        """x and its halvings, num in all."""
        levels = [x]
        for _ in range(self.num - 1):
            height, width = levels[-1].shape[-2:]
            levels.append(self.shrink(levels[-1], (-(-height // 2), -(-width // 2))))
        return levels

    def split(self, x: Tensor) -> list[Tensor]:
        """B_k x of every band, at the size of x."""
        lows = self._lows(self.pyramid(x))
        return [a - b for a, b in pairwise(lows)] + lows[-1:]

    def _lows(self, levels: list[Tensor]) -> list[Tensor]:
        """L_k x of a pyramid, each at the size of the finest."""
        lows = []
        for k, low in enumerate(levels):
            for finer in reversed(levels[:k]):
                low = self.grow(low, (finer.shape[-2], finer.shape[-1]))
            lows.append(low)
        return lows

    def gains(self, size: Sequence[int]) -> list[float]:
        """Mean square of each band of white noise of std 1 at `size` (h, w): the band's share, as far as these filters overlap."""
        ways = [self._along(side) for side in size]
        overlaps = [[float((a * b).sum()) / len(way[0]) for a, b in _pairs(way)] for way in ways]
        both = [a * b for a, b in zip(*overlaps, strict=True)]  # <L_0, L_0>, <L_0, L_1>, <L_1, L_1>, ...
        return [both[2 * k] - 2 * both[2 * k + 1] + both[2 * k + 2] for k in range(self.num - 1)] + both[-1:]

    def _along(self, side: int) -> list[Tensor]:
        """L_k along rows as matrices (side, side), read off a picture whose columns are all alike: the filters are separable."""
        unit = torch.eye(side, dtype=torch.float64)[:, None, :, None].expand(-1, 1, -1, side)
        return [low[:, 0, :, 0].T for low in self._lows(self.pyramid(unit.contiguous()))]


def _pairs(lows: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    pairs = [(lows[0], lows[0])]
    for fine, coarse in pairwise(lows):
        pairs += [(fine, coarse), (coarse, coarse)]
    return pairs
