"""What training does to the description of its pictures: noise on text features, dropout of conditions."""

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from data.batch import Cond

from .cond_config import CondConfig
from .original_size import PORT as SIZE
from .position import PORT as POSITION


def dropped(cond: Cond, config: CondConfig, u: Mapping[str, Tensor]) -> Cond:
    """Drop all conditions of an image together with probability `drop`, then each alone with `drop_each`, and apart from them its
    original size; u: uniform (b,)."""
    devices = {name: part.keep.device for name, part in cond.parts.items()}
    for name in config.names:
        keep = (u["drop"] >= config.drop) & (u[f"drop_{name}"] >= config.drop_each)
        cond = cond.dropped((name,), keep.to(devices[name])) if name in devices else cond
    if config.original_size and SIZE in devices:
        keep = u["drop_original_size"] >= config.original_size.drop
        cond = cond.dropped((SIZE,), keep.to(devices[SIZE]))
    return cond


def placed(cond: Cond, config: CondConfig, position: Tensor, u: Mapping[str, Tensor]) -> Cond:
    """Add the positions (b, 2, h, w) of the cells of training crops, dropped with their own probability; u: uniform (b,)."""
    assert config.position
    keep = (u["drop_position"] >= config.position.drop).to(position.device)
    return cond.given(**{POSITION: position}).dropped((POSITION,), keep)


def noisy_text(cond: Cond, std: float, eps: Tensor) -> Cond:
    """Add eps (b, n, d), standard normal, to the text features, times std and the root-mean-square of each token's own features."""
    text = cond.parts["text"]
    rms = text.value.square().mean(-1, keepdim=True).sqrt()
    return replace(cond, parts={**cond.parts, "text": replace(text, value=text.value + std * rms * eps)})
