"""Beside: what a request says about the guidance of its images, row by row, beside the settings of a stage."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch

from data.batch import Cond


@dataclass(frozen=True, kw_only=True)
class Beside:
    """Guidance of the b images of a chunk. scales (b,): guidance_scale of each, in place of the settings'; None: theirs.

    negative: a text for each in place of none, as a cond of b rows with the part "text" alone, not kept where an image has none.
    composed: further texts, each as such a cond with the weights (b,) of its difference; 0 where an image does not have it.
    """

    scales: Sequence[float] | None = None
    negative: Cond | None = None
    composed: Sequence[tuple[Cond, Sequence[float]]] = ()

    def of(self, rows: Sequence[int], scales: Sequence[float] | None) -> Self:
        """That of images which have these rows of it, with these scales."""
        index = torch.tensor(rows)
        return replace(
            self,
            scales=scales,
            negative=None if self.negative is None else self.negative[index],
            composed=tuple((text[index], [weights[row] for row in rows]) for text, weights in self.composed),
        )

    def to(self, device: torch.device | str) -> Self:
        """A copy with every tensor on `device`."""
        return replace(
            self,
            negative=None if self.negative is None else self.negative.to(device),
            composed=tuple((text.to(device), weights) for text, weights in self.composed),
        )


NOTHING = Beside()
