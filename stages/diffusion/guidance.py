"""Classifier-free guidance (Ho and Salimans 2022) on x0_hat. guidance_scale 1 is off and costs exactly one conditional call.

x0_hat = null + scale * (cond - null). Texts that write (1 + w) cond - w null mean w = scale - 1. With a scale for each of two
conditions: x0_hat = null + label_scale * (label - null) + text_scale * (both - label) (Brooks et al. 2023, eq. 3).
"""

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
