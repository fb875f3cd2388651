"""A picture and a mask from files, for a request that paints over it."""

from pathlib import Path

import torch
from torch import Tensor

from data.alpha import to_pixels
from data.decode import load_image

from ..link import side_multiple
from ..pipeline import Cascade
from ..source import check_marked
from .given import GivenFile, size_of
from .pictures import fitted, fitted_size


def pixels_of(
    model: Cascade, file: GivenFile, mask: Path | None, *, stage: str = "", fit: bool = False
) -> tuple[Tensor, Tensor | None]:
    """A picture uint8 (1, c, h, w), as the cascade's stage `stage` (its last) gives them, and its mask bool (1, 1, h, w).

    fit: shrink both until the shorter side is the stage's own. Raises ValueError, OSError.
    """
    if file.fault:
        raise ValueError(file.fault)
    names = model.names
    if stage and stage not in names:
        raise ValueError(f"--image-stage {stage}: there is no such stage; allowed are {', '.join(names)}")
    link = model.links[names.index(stage) if stage else -1]
    pixels = file.pixels(link.contract.channels)
    painted = None if mask is None else mask_of(mask, file)
    if not fit:
        return pixels, painted
    side = link.contract.resolution
    h, w = file.size
    if min(h, w) < side:
        raise ValueError(
            f"--image {file.path}: {w}x{h} px, stage {link.name} gives {side} px; make it larger first (--image alone)"
        )
    size = fitted_size((h, w), side, side_multiple(model.links[: model.names.index(link.name) + 1], side))
    return fitted(pixels, size), None if painted is None else fitted_mask(painted, size, f"--mask {mask}")


def mask_of(path: Path, file: GivenFile) -> Tensor:
    """The mask in a picture of the same size as `file`, bool (1, 1, h, w): True, painted anew, where it is light. Raises
    ValueError, OSError."""
    (h, w), (mask_h, mask_w) = file.size, size_of(path)
    if (h, w) != (mask_h, mask_w):
        raise ValueError(
            f"--mask {path}: {mask_w}x{mask_h} px, --image {file.path} has {w}x{h} px; give one of the same size"
        )
    painted = light(torch.tensor(to_pixels(load_image(path)))[None])
    check_marked(painted, f"--mask {path}")
    return painted


def fitted_mask(mask: Tensor, size: tuple[int, int], where: str) -> Tensor:
    """A mask bool (1, 1, h, w) shrunk to `size`. Raises ValueError, which begins with `where`, if none or all of it is left."""
    shrunk = fitted(mask.to(torch.uint8) * 255, size) >= 128
    check_marked(shrunk, where)
    return shrunk


def light(pixels: Tensor) -> Tensor:
    """Where a picture uint8 (b, 3, h, w) is nearer to white than to black, bool (b, 1, h, w)."""
    return pixels.float().mean(1, keepdim=True) >= 127.5
