"""A tiny bundle, awake, and the config of a control net beside it."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data.batch import Batch
from stages.build import build_stage
from stages.bundle import Provenance, read_sidecar, read_weights, save_bundle
from stages.config import BaseConfig
from stages.stage import Stage
from stages.training.controlled import beside, copied
from tests.stages.tiny import base_config, shapes_batch, wake

TOLD = Provenance(nimg=100, ema=16, data="none", versions={})


def base_bundle(folder: Path, **net: Any) -> Path:
    """A base stage with classes, whose every gain is awake."""
    config = base_config(net=net)
    torch.manual_seed(0)
    save_bundle(folder, wake(build_stage(config)).state_dict(), config=config, text_encoder=None, provenance=TOLD)
    return folder


def controlled_config(base: Path, **train: Any) -> BaseConfig:
    """Of a control net beside the bundle, which follows gray maps."""
    values = read_sidecar(base).config.model_dump()
    values["cond"] |= {"maps": {"channels": 1}, "drop": 0.2}
    values |= {"controlnet": {"base": str(base)}, "train": base_config(**train).train.model_dump()}
    return BaseConfig.model_validate(values)


def controlled(config: BaseConfig) -> Stage:
    """As its training begins."""
    config = beside(config)
    assert config.controlnet is not None
    torch.manual_seed(1)
    stage = build_stage(config)
    stage.load_state_dict(stage.state_dict() | copied(config, read_weights(config.controlnet.base)))
    return stage


def mapped_batch(num: int, *, start: int = 0) -> Batch:
    """Shapes of 8 px whose maps are their means over channels."""
    batch = shapes_batch(num, 8, start=start)
    return Batch(image=batch.image, cond=batch.cond.given(maps=gray(batch.image)), index=batch.index, keys=batch.keys)


def gray(image: Tensor) -> Tensor:
    """Mean over channels of (b, 3, h, w) uint8."""
    return image.float().mean(1, keepdim=True).to(torch.uint8)
