"""Colour drift: whether a system's pictures are darker, tinted, or of less contrast than the reference."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cascade.judge.pictures import check_channels


@dataclass(frozen=True, kw_only=True)
class ColourDrift:
    """Generated minus reference for each channel, in levels of uint8: mean and std over all pixels of all pictures."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


def colour_drift(reference: Tensor, generated: Tensor) -> ColourDrift:
    """Drift of pictures uint8 (b, c, h, w); number and size may differ, channels may not."""
    check_channels(reference, generated)
    (mean, std), (generated_mean, generated_std) = _levels(reference), _levels(generated)
    return ColourDrift(mean=tuple((generated_mean - mean).tolist()), std=tuple((generated_std - std).tolist()))


def _levels(pictures: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and std for each channel (c,), exact: from the histograms."""
    counts = torch.stack([torch.bincount(each.flatten(), minlength=256) for each in pictures.unbind(dim=1)]).double()
    shares, levels = counts / counts.sum(dim=1, keepdim=True), torch.arange(256.0, device=pictures.device).double()
    mean = shares @ levels
    return mean, (shares * (levels - mean[:, None]).square()).sum(dim=1).sqrt()
