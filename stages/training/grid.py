"""Sample grids: what the averaged weights make of a fixed set of held-out pictures with fixed noise."""

from pathlib import Path

import torch
from torch import Tensor

from data.batch import Batch, Cond

from ..diffusion.corrupt import add_noise
from ..diffusion.samplers import Noise
from ..memory import Portions, device_of
from ..sampling import conditioned, noise_of, sample_alone
from ..stage import Stage


def sample_grid(stage: Stage, batch: Batch, portions: Portions | None = None) -> Tensor | None:
    """Paint a grid, uint8 (c, h, w). Base stage: samples above truth; super-resolution: rows of low-res (enlarged) | sample |
    truth; a stage with learned variance adds its uncertainty. None if memory does not suffice for a single picture."""
    from torchvision.utils import make_grid

    parts = (portions or Portions("grid")).each(len(batch), lambda own: columns_of(stage, batch[own]))
    if parts is None:
        return None
    columns = [torch.cat(column) for column in zip(*parts, strict=True)]
    if stage.config.takes:
        rows, nrow = torch.stack(columns, dim=1).flatten(0, 1), len(columns) * max(1, len(batch) // 4)
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
    uncertain = (uncertainty(stage, truth, cond, noise),) if stage.config.learned_variance else ()
    return tuple(space.show(space.store(image)) for image in (*upsampled, sample, truth, *uncertain))


def uncertainty(stage: Stage, x0: Tensor, cond: Cond, noise: Noise) -> Tensor:
    """How uncertain a stage with learned variance is about each element of x0 (b, c, *size), noised to sigma_data: the std of its
    answer, from -1, none, to 1, sigma_data."""
    sigma_data = stage.config.noise.sigma_data
    sigma = x0.new_full((len(x0),), sigma_data)
    var = stage.denoise(add_noise(x0, sigma, noise("uncertainty", tuple(x0.shape))), sigma, cond).var
    assert var is not None
    return 2 * var.sqrt() / sigma_data - 1


def save_picture(picture: Tensor, path: Path) -> None:
    """Write uint8 (c, h, w) as a PNG file."""
    from data.alpha import to_image

    to_image(picture.cpu()).save(path)
