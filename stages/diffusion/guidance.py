"""The formulas of guidance, on x0_hat. A scale of 1 is off; texts that write (1 + w) cond - w null mean w = scale - 1.

    classifier-free   x0_hat = null + scale * (cond - null)                                     (Ho and Salimans 2022)
    two conditions    x0_hat = null + label_scale * (label - null) + text_scale * (both - label)  (Brooks et al. 2023, eq. 3)
    composed          cond + sum_i weight_i * (cond_i - without text) in place of cond          (Liu et al. 2022, eq. 11)
    autoguidance      x0_hat = guide + scale * (own - guide)                                    (Karras et al. 2024, eq. 3)

`rescaled` and `thresholded` bound what guidance exaggerates; `annealed` noises a condition. They compute an image at a time, so
that its bits do not depend on its batch.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .corrupt import expand_to


def guide(x0_cond: Tensor, x0_null: Tensor, scale: Tensor) -> Tensor:
    """Combine conditional and unconditional x0_hat (b, c, h, w) with scale (b,)."""
    return x0_null + expand_to(scale, x0_null) * (x0_cond - x0_null)


def is_guided(scale: float, sigma: float, interval: tuple[float, float]) -> bool:
    """Whether a null call is needed: scale differs from 1 and sigma is inside the interval."""
    return scale != 1 and is_inside(sigma, interval)


def is_inside(sigma: float, interval: tuple[float, float]) -> bool:
    """Whether lo < sigma <= hi (Kynkaanniemi et al. 2024, eq. 4)."""
    return interval[0] < sigma <= interval[1]


def rescaled(guided: Tensor, cond: Tensor, share: float) -> Tensor:
    """Guided x0_hat (b, c, *size) whose mean and std are, by `share` of the way, those of the conditional one, picture by picture
    (after Lin et al. 2024, eq. 15 and 16).

    They scale the output v = alpha eps - sigma x0, which at their last level, where x has nothing of x0, is -x0: so it is the std
    of x0_hat that guidance makes too large. They scale about 0, which makes the white of a background grey, since a picture on
    white has a mean far from 0; about the guided mean, which guidance moves as well, pictures fade to white. Hence both moments.
    """
    pictures = []
    for one, other in zip(guided, cond, strict=True):
        std = one.std()
        factor = 1 + share * (other.std() / std - 1) if std > 0 else 1.0
        pictures.append(torch.lerp(one.mean(), other.mean(), share) + factor * (one - one.mean()))
    return torch.stack(pictures)


def thresholded(x0_hat: Tensor, percentile: float) -> Tensor:
    """Dynamic thresholding (Saharia et al. 2022, section 2.3): with s the percentile (0 to 1, by the nearest rank) of a picture's
    |x0_hat|, at least 1: x0_hat clipped to [-s, s], divided by s. So the result is in [-1, 1], and a picture with s = 1 is only
    clipped."""
    pictures = []
    for one in x0_hat:
        sizes = one.abs().flatten()
        rank = min(max(math.ceil(percentile * len(sizes)), 1), len(sizes))
        bound = sizes.kthvalue(rank).values.clamp(min=1)
        pictures.append(one.clamp(-bound, bound) / bound)
    return torch.stack(pictures)


def clean_share(sigma: float, levels: tuple[float, float]) -> float:
    """gamma, the share of the condition's power that is not noise at a level: 1 below levels[0], 0 above levels[1], linear in log
    sigma between (Sadat et al. 2024, eq. 5, there in t)."""
    low, high = (math.log(level) for level in levels)
    return min(max((high - math.log(sigma)) / (high - low), 0.0), 1.0)


def annealed(features: Tensor, eps: Tensor, shares: Sequence[float], scale: float) -> Tensor:
    """Text features (b, n, d) with normal noise eps: sqrt(gamma) y + scale sqrt(1 - gamma) eps, gamma by row in `shares`, eps in
    units of the root-mean-square of each token's own features (Sadat et al. 2024, eq. 4). A row of share 1 is as it was."""
    rows = []
    for one, noise, share in zip(features, eps, shares, strict=True):
        rms = one.square().mean(-1, keepdim=True).sqrt()
        noisy = math.sqrt(share) * one + scale * math.sqrt(1 - share) * rms * noise
        rows.append(one if share == 1 else noisy)
    return torch.stack(rows)
