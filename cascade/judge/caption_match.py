"""Does a picture show its caption, by an image-text encoder: cosines, and how often the own caption is the nearest of many.

Both stand beside the same for shuffled captions, each picture under another one's. Cosines of two encoders do not compare.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cascade.judge.among import AMONG, TIE, nearest_among
from cascade.judge.each import mean_error


@dataclass(frozen=True, kw_only=True)
class CaptionMatch:
    """Of n pictures, (n,) float64: cosine with the own caption, and the chance that it is the nearest of `among` captions."""

    cosine: Tensor
    nearest: Tensor
    among: int

    @property
    def mean_cosine(self) -> tuple[float, float]:
        """Mean and standard error."""
        return mean_error(self.cosine)

    @property
    def share_nearest(self) -> tuple[float, float]:
        """Mean and standard error of the chances."""
        return mean_error(self.nearest)


def caption_match(pictures: Tensor, texts: Tensor, captions: Sequence[str]) -> CaptionMatch:
    """Match pictures with their captions, both as unit vectors (n, d) float64.

    A caption of several pictures counts once. Of more than AMONG captions, the others are drawn at random, in closed form. Raises
    ValueError if all pictures have one caption.
    """
    first = {caption: k for k, caption in reversed(list(enumerate(captions)))}
    if len(first) < 2:
        raise ValueError(f"all {len(captions):,} pictures have one caption; at least two captions are needed")
    rows = torch.tensor(list(first.values()))
    own = (pictures * texts).sum(dim=1)
    nearer = torch.cat(
        [
            (part @ texts[rows].T > mine[:, None] + TIE).sum(dim=1)
            for part, mine in zip(pictures.split(AMONG), own.split(AMONG), strict=True)
        ]
    )
    chance = nearest_among(nearer, torch.full_like(nearer, len(rows) - 1))
    return CaptionMatch(cosine=own, nearest=chance, among=min(AMONG, len(rows)))


def shuffled(pictures: Tensor, texts: Tensor, captions: Sequence[str], seed: int = 0) -> CaptionMatch:
    """The same with each picture under the caption of another one: a random cyclic order. Raises ValueError as `caption_match`."""
    order = torch.randperm(len(captions), generator=torch.Generator().manual_seed(seed))
    other = torch.empty_like(order)
    other[order] = order.roll(1)
    return caption_match(pictures, texts[other], [captions[k] for k in other.tolist()])
