"""Pictures for the tests of the judge."""

import torch
from torch import Tensor


def pictures(num: int, size: int = 32, seed: int = 0, channels: int = 3) -> Tensor:
    """Uint8 pictures (num, channels, size, size): smooth blobs, each channel its own."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(num, channels, 4, 4, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic", antialias=True)
    return (smooth.clamp(0, 1) * 255).round().to(torch.uint8)


def noisy(images: Tensor, std: float, seed: int = 1) -> Tensor:
    """The pictures with white noise of `std` uint8 levels."""
    generator = torch.Generator().manual_seed(seed)
    return (images + std * torch.randn(images.shape, generator=generator)).round().clamp(0, 255).to(torch.uint8)
