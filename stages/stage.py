"""What the two kinds of stage share: the denoiser around the network, and how training draws its randomness."""

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from data.batch import Batch, Cond, to_float
from data.resize import downsample

from .config import BaseConfig, SuperResConfig
from .diffusion.corrupt import normals, uniforms
from .diffusion.denoiser import combine, scalings
from .nets.unet import UNet
from .randomness import generators

DRAWS = ("sigma", "drop", "flip", "aug_sigma", "crop_y", "crop_x")
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Losses(NamedTuple):
    """What a stage's forward returns. loss (): the mean to go down. per_image, sigma (b,): detached, for the log.

    A tuple, for DeepSpeed looks for its tensors to know when the backward pass begins.
    """

    loss: Tensor
    per_image: Tensor
    sigma: Tensor


class Stage(nn.Module):
    """A denoiser with a training loss. `forward(batch, seed)` is the loss; `denoise` answers a sampler's query."""

    def __init__(self, config: BaseConfig | SuperResConfig):
        super().__init__()
        self.config = config
        low_res = isinstance(config, SuperResConfig)
        self.net = UNet(
            config.net,
            num_in=config.channels * (1 + low_res),
            num_out=config.channels,
            aug=low_res,
            num_classes=config.cond.num_classes,
            text_dim=config.cond.text.dim if config.cond.text else 0,
        )

    def set_precision(self, precision: str) -> None:
        """The dtype the network computes in; its parameters stay float32."""
        self.net.compute_dtype = PRECISIONS[precision]

    def denoise(
        self, x: Tensor, sigma: Tensor, cond: Cond, low_res: Tensor | None = None, aug_sigma: Tensor | None = None
    ) -> Tensor:
        """x0_hat (b, c, h, w) of x at sigma (b,). low_res: the augmented condition at x's size, and the aug_sigma (b,) in it."""
        error = self.error(aug_sigma)
        s = scalings(sigma, sigma_data=self.config.noise.sigma_data, low_res_sigma=error)
        inputs = x * s.c_in[:, None, None, None].to(x.dtype)
        if low_res is not None:
            inputs = torch.cat([inputs, low_res * s.c_in_low[:, None, None, None].to(x.dtype)], dim=1)
        F = self.net(inputs, s.c_noise, cond, None if error is None else error.log() / 4)
        return combine(x, low_res, F, s)

    def error(self, aug_sigma: Tensor | None) -> Tensor | None:
        """Std (b,) of the condition's error: what upsampling lost and what augmentation added. None where there is no low_res."""
        if aug_sigma is None or not isinstance(self.config, SuperResConfig):
            return None
        return (aug_sigma.float().square() + self.config.low_res_sigma**2).sqrt()

    def _draws(self, batch: Batch, seed: int) -> dict[str, Tensor]:
        """Uniform numbers (b,) float64 on the CPU by name; image k's depend on (seed, k) alone."""
        table = uniforms(generators(seed, batch.index, "draws"), len(DRAWS))
        return dict(zip(DRAWS, table.unbind(1), strict=True))

    def _picture(self, batch: Batch, u: dict[str, Tensor]) -> Tensor:
        """x0 (b, c, resolution, resolution) float32: THE downsample of what the shard holds, flipped for half of the images."""
        size = self.config.resolution
        x0 = downsample(to_float(batch.image), (size, size))
        return self._flipped(x0, u)

    def _flipped(self, x: Tensor, u: dict[str, Tensor]) -> Tensor:
        if not self.config.train.flip:
            return x
        return torch.where((u["flip"] < 0.5).to(x.device)[:, None, None, None], x.flip(-1), x)

    def _dropped(self, cond: Cond, u: dict[str, Tensor]) -> Cond:
        return replace(cond, keep=cond.keep & (u["drop"] >= self.config.cond.drop).to(cond.keep.device))


def noise(batch: Batch, seed: int, purpose: str, shape: torch.Size) -> Tensor:
    """Standard normal (b, c, h, w) on the batch's device, one generator an image."""
    return normals(generators(seed, batch.index, purpose, device=batch.image.device), tuple(shape[1:]))
