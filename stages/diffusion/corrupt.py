"""The forward process: `add_noise` is the only place where noise is added to a picture, in training and in sampling.

x0, eps (b, c, h, w); sigma (b,). Conditioning augmentation applies the same function to the low-resolution condition.
"""

import torch
from torch import Tensor


def expand_to(value: Tensor, image: Tensor) -> Tensor:
    """Reshape (b,) to (b, 1, 1, 1). Raises ValueError for other shapes: with b == w they would silently broadcast over columns."""
    if value.shape != image.shape[:1]:
        raise ValueError(
            f"expand_to: got {tuple(value.shape)} for images {tuple(image.shape)}; one number per image is needed"
        )
    return value.reshape(-1, *[1] * (image.ndim - 1)).to(image.dtype)


def add_noise(x0: Tensor, sigma: Tensor, eps: Tensor) -> Tensor:
    """Compute x = x0 + sigma * eps. At sigma = 0 it is exactly x0."""
    if x0.shape != eps.shape:
        raise ValueError(f"add_noise: eps {tuple(eps.shape)} for images {tuple(x0.shape)}; the shapes must be equal")
    return x0 + expand_to(sigma, x0) * eps


def augment(low_res: Tensor, aug_sigma: Tensor, eps: Tensor) -> Tensor:
    """Conditioning augmentation (Ho et al. 2021, section 4.2): add noise of std aug_sigma (b,) to the upsampled condition.

    low_res (b, c, h, w) is already at the stage's own size. The network gets the same aug_sigma as an input. Non-truncated
    form: the lower stage finishes its chain, then its picture is noised, so one stored picture serves a sweep over aug_sigma.
    """
    return add_noise(low_res, aug_sigma, eps)


def score(x0_hat: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
    """Gradient of log p(x; sigma) by Tweedie's formula: (x0_hat - x) / sigma^2."""
    return (x0_hat - x) / expand_to(sigma, x).square()


def uniforms(generators: list[torch.Generator], num: int) -> Tensor:
    """Draw (b, num) float64 in [0, 1), row k from generator k."""
    return torch.stack([torch.rand(num, generator=g, dtype=torch.float64, device=g.device) for g in generators])


def normals(generators: list[torch.Generator], shape: tuple[int, ...]) -> Tensor:
    """Draw (b, *shape) float32 standard normal, row k from generator k."""
    return torch.stack([torch.randn(shape, generator=g, device=g.device) for g in generators])
