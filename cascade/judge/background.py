"""Whether pictures without transparency stand on the background that a ruler was trained on."""

import torch
from torch import Tensor

from cascade.judge.describe import INK
from data.decode import Color


def check_background(pictures: Tensor, background: Color, where: str) -> None:
    """Raise ValueError if most pictures uint8 (n, 3, h, w) stand on one colour, and it is another one than `background`."""
    edges = (pictures[..., 0, :], pictures[..., -1, :], pictures[..., 0], pictures[..., -1])
    border = torch.cat(edges, dim=2).float()
    own = border.median(dim=2).values
    common, reach = own.median(dim=0).values, INK * 127.5
    flat = ((border - own[:, :, None]).abs().amax(dim=1) <= reach).double().mean(dim=1) > 0.5  # noise has no background
    alike = flat & ((own - common).abs().amax(dim=1) <= reach)
    if alike.double().mean() > 0.5 and (common - torch.tensor(background)).abs().max() > reach:
        raise ValueError(
            f"{where}: most pictures stand on {tuple(int(each) for each in common)}, the ruler is for "
            f"{tuple(background)}: lay them on that colour, or train a ruler with --background"
        )
