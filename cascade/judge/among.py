"""The chance that the right answer is the nearest of a fixed number of answers, so that data sets of other sizes compare."""

import torch
from torch import Tensor

AMONG = 500  # answers, a number for comparisons between data sets
TIE = 1e-9  # cosines that differ by less are equal: two captions may have one picture


def nearest_among(nearer: Tensor, others: Tensor, among: int = AMONG) -> Tensor:
    """(n,) float64: of `others` wrong answers `nearer` are nearer than the right one; among - 1 of them are drawn at random.

    The closed form, without replacement; where there are fewer than among - 1, all are drawn.
    """
    drawn = others.clamp(max=among - 1)
    places = torch.arange(int(drawn.max())) if len(drawn) else torch.zeros(0)
    left = (others - nearer)[:, None] - places
    chances = (left.clamp(min=0) / (others[:, None] - places).clamp(min=1)).double()
    return chances.masked_fill(places >= drawn[:, None], 1.0).prod(dim=1)
