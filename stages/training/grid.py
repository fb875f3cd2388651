"""Sample grids: what the averaged weights make of a fixed set of held-out pictures with fixed noise."""

from pathlib import Path

import torch
from torch import Tensor

from data.batch import Batch

from ..memory import Portions, device_of
from ..sampling import conditioned, noise_of, sample_alone
from ..stage import Stage


def sample_grid(stage: Stage, batch: Batch, portions: Portions | None = None) -> Tensor | None:
    """Paint a grid, uint8 (c, h, w). Base stage: samples above truth; super-resolution: rows of low-res (enlarged) | sample |
    truth. None if memory does not suffice for a single picture."""
    from torchvision.utils import make_grid

    parts = (portions or Portions("grid")).each(len(batch), lambda own: columns_of(stage, batch[own]))
    if parts is None:
        return None
    columns = [torch.cat(column) for column in zip(*parts, strict=True)]
    if stage.config.takes:
        rows, nrow = torch.stack(columns, dim=1).flatten(0, 1), 3 * max(1, len(batch) // 4)
    else:
        rows, nrow = torch.cat(columns), len(batch)
    return make_grid(rows, nrow=nrow, pad_value=0 if rows.shape[1] == 4 else 255)


@torch.inference_mode()
def columns_of(stage: Stage, batch: Batch) -> tuple[Tensor, ...]:
    """Columns of the grid for some pictures, uint8 (b, c, h, w) each; the noise of each is fixed by its `index`."""
    settings, space, device = stage.config.sample, stage.space, device_of(stage)
    batch = batch.to(device)
    truth = space.read(batch.image, stage.config.size)
    noise = noise_of("grid", 0, batch.index, device)
    takes = stage.config.takes
    below = None if takes is None else space.down(truth, stage.config.shape(takes)[1:])
    cond = conditioned(stage, batch.cond, below, settings, noise)
    sample = sample_alone(stage, settings, cond, noise, truth.shape, below)
    upsampled = () if below is None else (space.up(below, stage.config.size),)
    return tuple(space.show(space.store(image)) for image in (*upsampled, sample, truth))


def save_picture(picture: Tensor, path: Path) -> None:
    """Write uint8 (c, h, w) as a PNG file."""
    from data.alpha import to_image

    to_image(picture.cpu()).save(path)
