"""Sample grids: what the averaged weights paint on a fixed set of held-out pictures, with fixed noise, every time."""

from pathlib import Path

import torch
from torch import Tensor

from data.batch import Batch, to_float, to_uint8
from data.resize import downsample

from ..memory import Portions, device_of
from ..sampling import Given, give_low_res, image_noise, sample_alone
from ..stage import Stage
from ..super_res import SuperResStage


def sample_grid(stage: Stage, batch: Batch, portions: Portions | None = None) -> Tensor | None:
    """uint8 (c, h, w). Base stage: samples over truth; super-resolution: rows of low-res (enlarged) | sample | truth. None where
    memory does not hold a single picture."""
    from torchvision.utils import make_grid

    painted = (portions or Portions("grid")).each(len(batch), lambda own: paint(stage, batch[own]))
    if painted is None:
        return None
    columns = [torch.cat(column) for column in zip(*painted, strict=True)]
    if isinstance(stage, SuperResStage):
        rows, nrow = torch.stack(columns, dim=1).flatten(0, 1), 3 * max(1, len(batch) // 4)
    else:
        rows, nrow = torch.cat(columns), len(batch)
    return to_uint8(make_grid(rows, nrow=nrow, pad_value=1.0))


@torch.inference_mode()
def paint(stage: Stage, batch: Batch) -> tuple[Tensor, ...]:
    """What a grid shows of some pictures, (b, c, h, w) each on the CPU; the noise of each is fixed by its `index`."""
    settings, device = stage.config.sample, device_of(stage)
    batch = batch.to(device)
    truth = downsample(to_float(batch.image), (stage.config.resolution, stage.config.resolution))
    shape = tuple(truth.shape[1:])
    noise = image_noise("grid", 0, batch.index, "start", shape, device)
    if not isinstance(stage, SuperResStage):
        return sample_alone(stage, settings, Given(cond=batch.cond), noise).cpu(), truth.cpu()
    low_res = downsample(truth, (stage.config.low_res, stage.config.low_res))
    aug = image_noise("grid", 0, batch.index, "aug", shape, device)
    sample = sample_alone(stage, settings, give_low_res(stage, batch.cond, low_res, settings.aug_sigma, aug), noise)
    return stage.enlarge(low_res).cpu(), sample.cpu(), truth.cpu()


def save_picture(picture: Tensor, path: Path) -> None:
    """uint8 (c, h, w) to a PNG file."""
    from PIL import Image

    Image.fromarray(picture.permute(1, 2, 0).cpu().numpy()).save(path)
