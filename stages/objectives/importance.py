"""Importance sampling of training levels: levels whose loss is large and uncertain are drawn more often, and weighed less.

[0, 1), from which the law makes levels, is cut into K equal bins. Bin k is drawn with probability

    p_k = floor / K + (1 - floor) r_k / sum(r),    r_k = sqrt(E[loss^2 | bin k])

and its losses are multiplied by 1 / (K p_k), so that their expectation is the law's own, whatever p. This r makes the variance of
the mean loss smallest (Nichol and Dhariwal 2021, eq. 18); loss is the weighted one.

The norm of the raw score will not do. |score|^2 = |eps|^2 / sigma^2 on average, so it knows nothing but sigma, falls by 10^8 from
sigma 0.001 to 10, and draws hardly anything but the smallest levels, where there is least to learn: EDM's lognormal law would have
its median moved from 0.30 to 0.017, and the rare large levels would come with weights 1/p in the thousands. The weighted loss has
that factor taken out.
"""

from torch import Tensor

from .denoising_config import ImportanceConfig
from .table import LevelTable

BELOW_1 = 1 - 2**-53


class Importance:
    """The learned distribution."""

    def __init__(self, config: ImportanceConfig):
        self.floor = config.floor
        self.table = LevelTable("importance", bins=config.bins, half_life=config.half_life)

    @property
    def odds(self) -> Tensor:
        """Probability (bins,) float64 of each bin."""
        root = self.table.means().sqrt()
        return self.floor / self.table.bins + (1 - self.floor) * root / root.sum()

    def drawn(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Move uniform u (b,) in [0, 1) to the learned distribution there; also its bin (b,)."""
        odds = self.odds
        ends = odds.cumsum(0)
        bin_ = (u.unsqueeze(-1) >= ends[:-1]).sum(-1)
        within = ((u - (ends - odds)[bin_]) / odds[bin_]).clamp(0, BELOW_1)
        return ((bin_ + within) / self.table.bins).clamp(max=BELOW_1), bin_

    def weight(self, bin_: Tensor) -> Tensor:
        """The factor 1 / (K p) of the losses in bins (b,)."""
        return 1 / (self.table.bins * self.odds[bin_])
