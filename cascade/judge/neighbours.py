"""Nearest training pictures of generated ones: does a system repeat what it was trained on?"""

from dataclasses import dataclass

import torch
from torch import Tensor

from cascade.judge.distances import blocks, to_others
from cascade.judge.features import check_features


@dataclass(frozen=True, kw_only=True)
class Neighbours:
    """A generated picture's nearest training picture (`index`) and `distance`, (n,) each; `own` is that training
    picture's distance to its nearest other one; `share_nearer` is over all pairs, see `neighbours`.
    """

    index: Tensor
    distance: Tensor
    own: Tensor
    share_nearer: float


def neighbours(training: Tensor, generated: Tensor) -> Neighbours:
    """Nearest training row of each generated row (m, d), by features (n, d), n >= 2.

    `share_nearer` is the chance that a generated picture lies nearer to its nearest training picture than a training
    picture to its nearest other one (ties count half, so twins in the data are no alarm): 0.5 for new draws of the law of
    the data, 1 for copies.
    """
    training, generated = check_features(training, "training"), check_features(generated, "generated")
    if training.shape[1] != generated.shape[1]:
        raise ValueError(
            f"features: training have {training.shape[1]:,} dimensions, generated {generated.shape[1]:,}; "
            "they must be equal: compute both with one ruler"
        )
    if len(training) < 2:
        raise ValueError("training: 1 picture has no neighbour to compare with; at least 2 are needed: add pictures")
    nearest = [block.min(dim=1) for block in blocks(generated, training)]
    distance, index = torch.cat([each.values for each in nearest]), torch.cat([each.indices for each in nearest])
    own = to_others(training, 1)[:, 0]
    ordered = own.sort().values
    above = len(own) - torch.searchsorted(ordered, distance, right=True)
    not_below = len(own) - torch.searchsorted(ordered, distance, right=False)
    share = (above + not_below).double().mean().item() / (2 * len(own))
    return Neighbours(index=index, distance=distance, own=own[index], share_nearer=share)
