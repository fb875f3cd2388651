"""The learning rate as a function of images seen: it needs no saved state and is the same at every batch size and world size."""

import math

from ..config import TrainConfig


def lr_at(config: TrainConfig, nimg: int) -> float:
    """Linear warm-up over `warmup` images, then constant, half a cosine down to 0 at `images`, or 1/sqrt after the warm-up.

    rsqrt is EDM2's decay (Karras et al. 2024, eq. 67) with its reference at the end of the warm-up, which it therefore needs.
    """
    if nimg < config.warmup:
        return config.lr * nimg / config.warmup
    if config.schedule == "cosine":
        progress = (nimg - config.warmup) / max(config.images - config.warmup, 1)
        return config.lr * (1 + math.cos(math.pi * min(progress, 1.0))) / 2
    if config.schedule == "rsqrt":
        return config.lr * math.sqrt(config.warmup / nimg)
    return config.lr
