"""PSNR and SSIM of pictures against references, one number a picture, by kornia; and consistency with the low_res."""

import torch
from torch import Tensor

from cascade.judge.pictures import BATCH, check_channels, check_pairs
from data.batch import to_float
from data.resize import downsample

SSIM_WINDOW = 11  # px: the window of Wang et al. 2004, Gaussian with a std of 1.5


def psnr(pictures: Tensor, references: Tensor) -> Tensor:
    """PSNR in dB for each pair of pictures uint8 (b, c, h, w): (b,) float64, inf for equal ones."""
    check_pairs(pictures, references)
    return _psnr(pictures, references, 255.0)


def ssim(pictures: Tensor, references: Tensor) -> Tensor:
    """SSIM for each pair of pictures uint8 (b, c, h, w), at least 11 px a side: (b,) float64, mean over the channels.

    Windows that would reach over the border are left out, as in the paper (Wang et al. 2004).
    """
    from kornia.metrics import ssim as ssim_map

    check_pairs(pictures, references)
    if min(pictures.shape[2:]) < SSIM_WINDOW:
        size = f"{pictures.shape[3]} x {pictures.shape[2]}"
        raise ValueError(f"SSIM: pictures are {size} px; at least {SSIM_WINDOW} px a side are needed: use PSNR")
    pairs = zip(pictures.split(BATCH), references.split(BATCH), strict=True)
    return torch.cat(
        [ssim_map(a.double(), b.double(), SSIM_WINDOW, 255.0, padding="valid").mean(dim=(1, 2, 3)) for a, b in pairs]
    )


def low_res_consistency(pictures: Tensor, low_res: Tensor) -> Tensor:
    """PSNR in dB of THE downsample of each picture against its low_res, both uint8: (b,) float64.

    The downsample is not rounded to uint8, so that a perfect picture scores about 59 dB (the rounding of low_res).
    """
    check_channels(low_res, pictures, ("low_res", "pictures"))
    if len(pictures) != len(low_res):
        raise ValueError(f"low_res: {len(low_res):,} for {len(pictures):,} pictures; each picture needs its own")
    size = (low_res.shape[2], low_res.shape[3])
    parts = zip(pictures.split(BATCH), low_res.split(BATCH), strict=True)
    return torch.cat([_psnr(downsample(to_float(a), size), to_float(b), 2.0) for a, b in parts])


def _psnr(images: Tensor, references: Tensor, value_range: float) -> Tensor:
    from kornia.metrics import psnr as psnr_of_one

    pairs = zip(images, references, strict=True)
    return torch.stack([psnr_of_one(a.double(), b.double(), value_range) for a, b in pairs])
