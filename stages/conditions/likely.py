"""Conditions of the right shapes, to measure what a stage costs without data."""

import torch
from torch import Tensor

from data.batch import Cond

from ..config import StageBase
from .original_size import NUMBERS
from .position import positions, with_positions


def likely_cond(config: StageBase, x: Tensor) -> Cond:
    """A cond for x (b, c, *size), on its device, with every part the stage reads in sampling: class, text, maps,
    strength of a control net, original size, position, low_res with aug."""
    num, text = len(x), config.cond.text
    with torch.device(x.device):
        cond = Cond.of(
            torch.ones(num, dtype=torch.bool),
            label=torch.zeros(num, dtype=torch.int64) if config.cond.num_classes else None,
            text=torch.randn(num, text.tokens, text.dim) if text else None,
            text_mask=torch.ones(num, text.tokens, dtype=torch.bool) if text else None,
        )
        if config.cond.maps:
            cond = cond.given(maps=torch.randn(num, config.cond.maps.channels, *x.shape[2:]))
        if config.controlnet:
            cond = cond.given(control=torch.ones(num))
        if config.cond.original_size:
            cond = cond.given(original_size=torch.zeros(num, NUMBERS))
        if config.cond.position:
            cond = with_positions(cond, positions(tuple(x.shape[2:])))
        return cond if config.takes is None else cond.given(low_res=torch.randn_like(x), aug=torch.zeros(num))
