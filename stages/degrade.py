"""Degradations of low_res in training, so that a super-resolution stage takes real photographs, which are blurred, noisy and went
through JPEG: a chain of blur, resize, noise and compression, once or twice (Wang et al. 2021, "Real-ESRGAN", section 3).

On the device of the pictures, by kornia, without gradients. Each image has its own strengths, from its own random numbers.
"""

from collections.abc import Callable
from math import ceil, sqrt

import torch
import torch.nn.functional as F
from torch import Tensor

from data.resize import downsample

from .degrade_config import DegradeConfig
from .draws import Draws

GRAY = 0.4  # share of the images whose noise is the same in all channels, as in the paper
TINY = 1e-3  # px; of a Gaussian this narrow nothing but its centre is left

Size = tuple[int, int]


def shrunk_box(x: Tensor, size: Size) -> Tensor:
    """Downsample by the mean over the area of each pixel."""
    return F.interpolate(x, size=size, mode="area")


def shrunk_bilinear(x: Tensor, size: Size) -> Tensor:
    """Downsample by the antialiased triangle."""
    return F.interpolate(x, size=size, mode="bilinear", antialias=True)


KERNELS: tuple[Callable[[Tensor, Size], Tensor], ...] = (downsample, shrunk_bilinear, shrunk_box)
"""What shrinks a picture, each for a third of the images: cameras and programs do not agree."""


def degraded(x0: Tensor, size: Size, config: DegradeConfig, draws: Draws) -> Tensor:
    """low_res (b, 3, *size) of pictures x0 (b, 3, h, w) in [-1, 1]: degraded in a share of the images, else THE downsample."""
    low_res = downsample(x0, size)
    on = (draws.numbers("degrade", 1)[:, 0] < config.probability).nonzero()[:, 0].to(x0.device)
    if not len(on):
        return low_res
    height, width = x0.shape[-2:]
    between = (round(sqrt(height * size[0])), round(sqrt(width * size[1])))
    x = x0
    for number, smaller in enumerate((between, size)[-config.order :]):
        x = once(x, smaller, config, draws, f"degrade {number}")
    return low_res.index_copy(0, on, x[on])


@torch.no_grad()
def once(x: Tensor, size: Size, config: DegradeConfig, draws: Draws, purpose: str) -> Tensor:
    """Blur, shrink to `size`, add noise, compress."""
    u = draws.numbers(purpose, 6).to(x)
    x = blurred(x, config.blur * u[:, :2].square(), ceil(3 * config.blur))
    which = (u[:, 2] * len(KERNELS)).long()[:, None, None, None]
    x = torch.stack([shrink(x, size) for shrink in KERNELS]).gather(0, which.expand(-1, *x.shape[1:2], *size)[None])[0]
    eps = draws.noise(f"{purpose} noise", x.shape)
    eps = torch.where(u[:, 3, None, None, None] < GRAY, eps[:, :1], eps)
    x = (x + (config.noise * u[:, 4].square())[:, None, None, None] * eps).clamp(-1, 1)
    return x if config.jpeg == 100 else compressed(x, 100 - (100 - config.jpeg) * u[:, 5].square())


def blurred(x: Tensor, stds: Tensor, reach: int) -> Tensor:
    """Blur x (b, c, h, w) by Gaussians of stds (b, 2) px, down and to the right, cut at `reach` px; the border repeats the edge."""
    from kornia.filters import gaussian_blur2d  # here and below: 0.4 s that other trainings do not need

    return gaussian_blur2d(x, 2 * reach + 1, stds.clamp(min=TINY), border_type="replicate") if reach else x


def compressed(x: Tensor, quality: Tensor) -> Tensor:
    """JPEG at quality (b,) in [1, 100] of x (b, 3, h, w) in [-1, 1]."""
    from kornia.enhance import jpeg_codec_differentiable

    return jpeg_codec_differentiable((x + 1) / 2, quality).clamp(0, 1) * 2 - 1
