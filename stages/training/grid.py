"""Sample grids: what the averaged weights paint on a fixed set of held-out pictures, with fixed noise, every time."""

from pathlib import Path

import torch
from torch import Tensor
from torchvision.utils import make_grid

from data.batch import Batch, to_float, to_uint8
from data.resize import downsample

from ..sampling import Given, give_low_res, image_noise, sample_alone
from ..stage import Stage
from ..super_res import SuperResStage


@torch.inference_mode()
def sample_grid(stage: Stage, batch: Batch) -> Tensor:
    """uint8 (c, h, w). Base stage: samples over truth; super-resolution: rows of low-res (enlarged) | sample | truth."""
    settings = stage.config.sample
    size = (stage.config.resolution, stage.config.resolution)
    device = batch.image.device
    truth = downsample(to_float(batch.image), size)
    noise = image_noise("grid", 0, torch.arange(len(batch)), "start", tuple(truth.shape[1:]), device)
    if isinstance(stage, SuperResStage):
        low_res = downsample(truth, (stage.config.low_res, stage.config.low_res))
        aug = image_noise("grid", 0, torch.arange(len(batch)), "aug", tuple(truth.shape[1:]), device)
        given = give_low_res(stage, batch.cond, low_res, settings.aug_sigma, aug)
        sample = sample_alone(stage, settings, given, noise)
        rows = torch.stack([stage.enlarge(low_res), sample, truth], dim=1).flatten(0, 1)
        return to_uint8(make_grid(rows, nrow=3 * max(1, len(batch) // 4), pad_value=1.0))
    sample = sample_alone(stage, settings, Given(cond=batch.cond), noise)
    return to_uint8(make_grid(torch.cat([sample, truth]), nrow=len(batch), pad_value=1.0))


def save_picture(picture: Tensor, path: Path) -> None:
    """uint8 (c, h, w) to a PNG file."""
    from PIL import Image

    Image.fromarray(picture.permute(1, 2, 0).cpu().numpy()).save(path)
