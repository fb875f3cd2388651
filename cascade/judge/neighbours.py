"""Nearest training pictures of generated ones: does a system repeat what it was trained on?"""

from dataclasses import dataclass

import torch
from torch import Tensor

from cascade.judge.distances import blocks, to_others
from cascade.judge.features import check_features


@dataclass(frozen=True, kw_only=True)
class Neighbours:
    """A generated picture's nearest training picture (`index`) and `distance`, (n,) each; `own` is that training
    picture's distance to its nearest other one; `nearer` (n,) and its mean `share_nearer`: see `neighbours`.
    """

    index: Tensor
    distance: Tensor
    own: Tensor
    nearer: Tensor

    @property
    def share_nearer(self) -> float:
        """The mean of `nearer`."""
        return self.nearer.mean().item()


def neighbours(training: Tensor, generated: Tensor) -> Neighbours:
    """Nearest training row of each generated row (m, d), by features (n, d), n >= 2.

    `nearer` is the share of the training pictures that are farther from their nearest other one than this picture is from
    its nearest (ties count half, so twins in the data are no alarm). Its mean is 0.5 for new draws of the law of the data,
    1 for copies.
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
    nearer = (above + not_below).double() / (2 * len(own))
    return Neighbours(index=index, distance=distance, own=own[index], nearer=nearer)
