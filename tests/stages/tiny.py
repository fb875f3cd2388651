"""Tiny stages and batches that the tests of stages/ share: a second of training is a hundred updates."""

from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from data.batch import Batch, Cond
from data.shapes import SHAPES, draw, shape
from stages.config import BaseConfig, CondConfig, NoiseConfig, SampleConfig, SuperResConfig, TextConfig, TrainConfig
from stages.nets.ports import Ports
from stages.nets.unet import UNet
from stages.nets.unet_config import UNetConfig

TEXT_DIM, TOKENS = 6, 5
PORTS = Ports(inputs=6, outputs=3, levels=("aug",), classes={"label": 4}, tokens={"text": TEXT_DIM})
M = TypeVar("M", bound=nn.Module)


def train_config(**changed: Any) -> TrainConfig:
    """fp32, eager, no loader processes; 8 images an update."""
    settings: dict[str, Any] = {
        "images": 48, "batch": 8, "streams": 8, "workers": 0, "warmup": 8, "schedule": "constant", "ema": (16, 64),
        "precision": "fp32", "compile": False, "save_every": 24, "log_every": 8, "grid_every": 10**6,
    }  # fmt: skip
    return TrainConfig(**(settings | changed))


def base_config(*, classes: int = len(SHAPES), net: dict[str, Any] | None = None, **train: Any) -> BaseConfig:
    """8 px, two levels, classes."""
    return BaseConfig(
        resolution=8,
        net=unet_config(**(net or {})),
        cond=CondConfig(num_classes=classes),
        noise=NoiseConfig(sigma_data=0.6),
        train=train_config(**train),
        sample=SampleConfig(num_steps=2),
    )


def sr_config(*, crop: int = 8, net: dict[str, Any] | None = None, **train: Any) -> SuperResConfig:
    """8 -> 16 px on crops of 8."""
    return SuperResConfig(
        resolution=16,
        low_res=8,
        crop=crop,
        net=unet_config(**({"patch": 2} | (net or {}))),
        cond=CondConfig(num_classes=len(SHAPES)),
        noise=NoiseConfig(sigma_data=0.6),
        train=train_config(flip=True, **train),
        sample=SampleConfig(num_steps=2, sigma_max=5.0),
    )


def unet_config(**changed: Any) -> UNetConfig:
    settings: dict[str, Any] = {"widths": (16, 32), "blocks": (1, 1), "head_dim": 16, "emb_dim": 32}
    return UNetConfig(**(settings | changed))


def text_unet(**changed: Any) -> UNet:
    """A network with everything: classes, text, self- and cross-attention, augmentation level; gains awake."""
    torch.manual_seed(0)
    config = unet_config(self_attention=(1,), cross_attention=(0, 1), **changed)
    return wake(UNet(config, PORTS))


def text_cond(num: int, generator: torch.Generator) -> Cond:
    """Labels and captions of 1 to TOKENS tokens; rows are kept."""
    lengths = torch.arange(num) % TOKENS + 1
    return Cond.of(
        torch.ones(num, dtype=torch.bool),
        label=torch.arange(num) % 4,
        text=torch.randn(num, TOKENS, TEXT_DIM, generator=generator),
        text_mask=torch.arange(TOKENS) < lengths[:, None],
    )


def changed(cond: Cond, name: str, **fields: Tensor) -> Cond:
    """The same but for fields of one part."""
    return replace(cond, parts={**cond.parts, name: replace(cond.parts[name], **fields)})


def text_config() -> CondConfig:
    return CondConfig(num_classes=4, text=TextConfig(encoder="stand-in", dim=TEXT_DIM, tokens=TOKENS))


def wake(module: M) -> M:
    """Gives what starts at zero a value, as training does: a network's parameters called gain and balance. Else nothing reaches the
    output."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith("balance"):
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
            elif name.endswith("gain"):
                parameter.fill_(1.0 if name.endswith("out_gain") else 0.5)
    return module


def shapes_batch(num: int, size: int, *, start: int = 0) -> Batch:
    """Pictures start, start + 1, ... of `data.shapes` with their kind as label, at those positions of a run."""
    what = [shape(start + k) for k in range(num)]
    pictures = np.stack([np.asarray(draw(each, size)) for each in what])
    return Batch(
        image=torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous(),
        cond=Cond.of(torch.ones(num, dtype=torch.bool), label=torch.tensor([each.label for each in what])),
        index=torch.arange(start, start + num),
        keys=tuple(f"{start + k:06d}" for k in range(num)),
    )


def rms(x: Tensor) -> float:
    return x.double().square().mean().sqrt().item()
