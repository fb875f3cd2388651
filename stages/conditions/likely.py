"""Conditions of the right shapes, for measuring what a stage costs without any data."""

import torch
from torch import Tensor

from data.batch import Cond

from ..config import StageBase


def likely_cond(config: StageBase, x: Tensor) -> Cond:
    """What the stage's users give, for x (b, c, *size) and on its device: text, a class or a picture where it takes one."""
    num, text = len(x), config.cond.text
    with torch.device(x.device):
        cond = Cond.of(
            torch.ones(num, dtype=torch.bool),
            label=torch.zeros(num, dtype=torch.int64) if config.cond.num_classes else None,
            text=torch.randn(num, text.tokens, text.dim) if text else None,
            text_mask=torch.ones(num, text.tokens, dtype=torch.bool) if text else None,
        )
        return cond if config.takes is None else cond.given(low_res=torch.randn_like(x), aug=torch.zeros(num))
