"""One caption a picture and pass, of pictures that have several: the draw, and the token features of a shard's captions.

The draw is a function of (seed, key, epoch of the stream) alone: the same for any number of ranks and loader processes, for any
batch and block, and after a resume anywhere.
"""

import hashlib
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np

from data.decode import decode_captions, decode_features
from data.index import TINY, CaptionKind
from data.tar import CAPTIONS_MEMBER, FEATURES_MEMBER, Sample


@dataclass(frozen=True, kw_only=True)
class Pass:
    """A pass of a stream over its samples: its epoch in a run of a seed."""

    seed: int
    epoch: int

    def number(self, key: str) -> float:
        """The number in [0, 1) by which this pass draws the caption of a key, uniform and independent of those of others."""
        digest = hashlib.blake2b(f"caption {self.seed} {self.epoch} {key}".encode(), digest_size=8).digest()
        return (int.from_bytes(digest, "big") >> 11) / 2**53


def drawn(captions: list[list[str]], kinds: Sequence[CaptionKind], number: float) -> str | None:
    """The caption that a uniform number in [0, 1) stands for; None for none.

    None has what the probabilities leave to 1. The kinds that a picture has share the rest in proportion to their probabilities,
    and the texts of a kind share its part evenly; a picture without any has no caption.
    """
    total = math.fsum(kind.probability for kind in kinds)
    total = 1.0 if total > 1 - TINY else total
    present = [(texts, kind.probability) for texts, kind in zip(captions, kinds, strict=True) if texts]
    if number >= total or not present:
        return None
    place = number / total * math.fsum(probability for _, probability in present)
    for texts, probability in present[:-1]:
        if place < probability:
            return _at(texts, place / probability)
        place -= probability
    texts, probability = present[-1]
    return _at(texts, place / probability)


def _at(texts: list[str], share: float) -> str:
    """The text at a share in [0, 1) of a list; rounding may have made it 1."""
    return texts[min(int(share * len(texts)), len(texts) - 1)]


@dataclass
class Features:
    """Token features (tokens, dim) float16 of the captions of one shard, by text, as its samples arrive."""

    by_text: dict[str, np.ndarray] = field(default_factory=dict)

    def read(self, sample: Sample, dim: int) -> None:
        """Take what a sample has; one that is broken has nothing, which whoever needs it will find."""
        with suppress(ValueError, KeyError):
            self.by_text |= decode_features(sample[CAPTIONS_MEMBER], sample[FEATURES_MEMBER], dim)

    def of(self, key: str, sample: Sample, kinds: Sequence[CaptionKind], turn: Pass | None) -> np.ndarray | None:
        """The features of the caption of a sample: drawn in a pass, else the first one; None without one. Raises ValueError."""
        captions = decode_captions(sample[CAPTIONS_MEMBER])
        if len(captions) != len(kinds):
            raise ValueError(f"captions of {len(captions)} kinds, the index has {len(kinds)}")
        first = next((text for texts in captions for text in texts), None)
        text = first if turn is None else drawn(captions, kinds, turn.number(key))
        if text is None:
            return None
        if text not in self.by_text:
            raise ValueError(f"no token features of its caption {text[:60]!r} in the shard")
        return self.by_text[text]
