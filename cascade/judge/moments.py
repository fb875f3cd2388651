"""Mean and covariance of features: what the Fréchet distance needs, and the ruler that measured them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cascade.judge.features import check_features


@dataclass(frozen=True, kw_only=True)
class Ruler:
    """The network that computed features: a name for people, a SHA-256 of its weights for comparisons."""

    name: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Mean (d,) and covariance (d, d) in float64; `num` samples and `ruler` are None in files of other projects."""

    mean: Tensor
    cov: Tensor
    num: int | None
    ruler: Ruler | None = None


def moments(features: Tensor, ruler: Ruler | None = None) -> Moments:
    """Moments of features (n, d), n >= 2; the covariance is the unbiased one (divided by n - 1)."""
    features = check_features(features, "moments")
    if len(features) < 2:
        raise ValueError("moments: 1 sample has no covariance; at least 2 are needed: add pictures")
    return Moments(
        mean=features.mean(dim=0),
        cov=torch.cov(features.T).reshape(features.shape[1], -1),
        num=len(features),
        ruler=ruler,
    )
