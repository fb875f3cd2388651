"""Sliced Wasserstein distance of patches, a Laplacian level at a time (Karras et al. 2018): which scale is wrong.

Level k holds what THE downsample to half the size loses, x - U d x; the last level is the remaining low-pass. The
patches of both sides are shifted and scaled by mean and std of the *real* ones (the paper uses each side's own): so a
level with too much grain, or too little, is far away.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from cascade.judge.estimate import Estimate
from cascade.judge.features import check_equal
from cascade.judge.pictures import BATCH, check_sizes
from data.batch import to_float
from data.resize import downsample, upsample

PATCH = 7  # px
SMALLEST = 16  # px: the shorter side of the last level


def sliced_wasserstein(
    real: Tensor,
    generated: Tensor,
    generator: torch.Generator,
    num_patches: int = 64,
    num_directions: int = 128,
) -> tuple[float, ...]:
    """Mean |difference| of sorted projections of patches, finest level first; units are stds of the real patches.

    Pictures uint8 (n, c, h, w), n equal, at least 7 px; num_patches a picture and level; num_directions random unit
    vectors. Its floor is the distance of two halves of the real set. Memory: 196 * c * num_patches bytes a
    picture, level and side, 3.8 GB in all for 10,000 RGB pictures a side at 256 px.
    """
    check_sizes(real, generated)
    check_equal(len(real), len(generated))
    if min(real.shape[2:]) < PATCH:
        raise ValueError(f"pictures: {real.shape[3]} x {real.shape[2]} px; at least {PATCH} px a side are needed")
    sides = [_patches(each, num_patches, generator) for each in (real, generated)]
    return tuple(_distance(a, b, num_directions, generator) for a, b in zip(*sides, strict=True))


def finest_estimate(
    real: Tensor,
    generated: Tensor,
    generator: torch.Generator,
    num_patches: int = 16,
    num_directions: int = 64,
    groups: int = 20,
) -> Estimate:
    """The distance of the finest level alone, and its values without one of `groups` groups of pictures on both sides.

    Picture k of both sides is left out together: let it be painted under the condition of the true one. Patches and directions are
    those of the generator whatever is painted, so that two systems can be compared. Raises ValueError as `sliced_wasserstein`.
    """
    check_sizes(real, generated)
    check_equal(len(real), len(generated))
    if min(real.shape[2:]) < PATCH:
        raise ValueError(f"pictures: {real.shape[3]} x {real.shape[2]} px; at least {PATCH} px a side are needed")
    groups = min(groups, len(real))
    if groups < 2:
        raise ValueError(f"SWD: {len(real)} picture a side; at least 2 are needed for an error: add pictures")
    first, second = (
        torch.cat([_cut(next(laplacian(to_float(part))), num_patches, generator) for part in each.split(BATCH)])
        for each in (real, generated)
    )
    group = (torch.arange(len(real)) % groups).repeat_interleave(num_patches)
    ordered = [each.T.sort(dim=1) for each in _projected(first, second, num_directions, generator)]
    distances = []
    for left_out in (None, *range(groups)):
        a, b = (
            values[group[rows] != left_out].reshape(num_directions, -1) if left_out is not None else values
            for values, rows in ordered
        )
        distances.append((a - b).abs().mean().double())
    return Estimate(value=distances[0].item(), left_out=(torch.stack(distances[1:]),))


def laplacian(pictures: Tensor) -> Iterator[Tensor]:
    """Levels of float pictures (b, c, h, w), finest first, down to a shorter side of 16 to 31 px."""
    while min(pictures.shape[2:]) >= 2 * SMALLEST:
        height, width = pictures.shape[2:]
        smaller = downsample(pictures, (height // 2, width // 2))
        yield pictures - upsample(smaller, (height, width))
        pictures = smaller
    yield pictures


def _patches(pictures: Tensor, num: int, generator: torch.Generator) -> list[Tensor]:
    """For each level, patches (n * num, c, 49) at random positions."""
    levels: dict[int, list[Tensor]] = {}
    for part in pictures.split(BATCH):
        for k, level in enumerate(laplacian(to_float(part))):
            levels.setdefault(k, []).append(_cut(level, num, generator))
    return [torch.cat(parts) for parts in levels.values()]


def _cut(images: Tensor, num: int, generator: torch.Generator) -> Tensor:
    b, c, h, w = images.shape
    top = torch.randint(h - PATCH + 1, (b, num, 1, 1), generator=generator)
    left = torch.randint(w - PATCH + 1, (b, num, 1, 1), generator=generator)
    steps = torch.arange(PATCH)
    inside = ((top + steps[:, None]) * w + left + steps).reshape(b, 1, -1).to(images.device)
    values = images.reshape(b, c, h * w).gather(2, inside.expand(b, c, -1))
    return values.reshape(b, c, num, PATCH * PATCH).transpose(1, 2).flatten(0, 1)


def _distance(real: Tensor, generated: Tensor, num_directions: int, generator: torch.Generator) -> float:
    a, b = (each.sort(dim=0).values for each in _projected(real, generated, num_directions, generator))
    return (a - b).abs().mean().item()


def _projected(real: Tensor, generated: Tensor, num_directions: int, generator: torch.Generator) -> list[Tensor]:
    """Patches of both sides, shifted and scaled by the real ones, on random directions: (patches, directions) each."""
    std, mean = torch.std_mean(real, dim=(0, 2), keepdim=True)
    rows = [((each - mean) / std.clamp(min=1e-6)).flatten(1) for each in (real, generated)]
    directions = torch.randn(rows[0].shape[1], num_directions, generator=generator)
    directions = F.normalize(directions, dim=0).to(real.device)
    return [each @ directions for each in rows]
