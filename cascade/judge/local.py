"""Measures by published networks whose files are at hand: FID and IS by Inception, LPIPS, captions by an image-text encoder.

A network whose file is missing, is another one or cannot be read safely is left out by the names of its measures, with the
reason; the rest goes on.
"""

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from os.path import splitext
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from cascade.judge.caption_match import CaptionMatch, caption_match, shuffled
from cascade.judge.each import mean_error
from cascade.judge.encoder import ImageTextEncoder
from cascade.judge.features import SAMPLES_A_DIMENSION, draw
from cascade.judge.frechet import frechet_scores
from cascade.judge.inception import CLASSES, DIMENSIONS, Inception, Seen
from cascade.judge.inception_score import inception_score
from cascade.judge.lpips import Lpips
from cascade.judge.side import Side

FEWEST = SAMPLES_A_DIMENSION * CLASSES  # pictures for IS
FID, IS, LPIPS, CAPTIONS = "FID", "IS", "LPIPS", "caption match"
Network = TypeVar("Network", Inception, Lpips, ImageTextEncoder)
Measured = tuple[dict[str, Any], dict[str, str], dict[str, Tensor]]
"""Scores, what is left out, and numbers of single pictures, by name."""


@dataclass(frozen=True, kw_only=True)
class Files:
    """Where networks lie; what is None or empty was not asked for. accepted: SHA-256s besides the published ones."""

    inception: Path | None = None
    lpips: tuple[Path, ...] = ()
    encoder: Path | None = None
    accepted: Collection[str] = ()
    device: str = "cpu"


@dataclass(frozen=True, kw_only=True)
class Found:
    """Scores by name; left_out says why a measure is missing; weights: the SHA-256 of each network.

    cosine, nearest, lpips: (n,) float64 of the generated pictures, nan where a picture has no caption or no pair; None if not
    measured.
    """

    scores: dict[str, Any] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    weights: dict[str, str] = field(default_factory=dict)
    cosine: Tensor | None = None
    nearest: Tensor | None = None
    lpips: Tensor | None = None


class Networks:
    """The networks that are at hand. left_out: measures whose network is not, and why."""

    def __init__(self, files: Files = Files()):
        self.left_out: dict[str, str] = {}
        accepted, device = files.accepted, files.device
        self.inception = self._load((FID, IS), files.inception, lambda path: Inception.load(path, accepted, device))
        self.lpips = self._load((LPIPS,), files.lpips, lambda paths: Lpips.load(paths, accepted, device))
        self.encoder = self._load((CAPTIONS,), files.encoder, lambda path: ImageTextEncoder.load(path, device))

    def _load(self, measures: Sequence[str], place: Any, load: Callable[[Any], Network]) -> Network | None:
        try:
            return load(place) if place else None
        except ValueError as error:
            self.left_out |= dict.fromkeys(measures, str(error))
            return None

    @property
    def weights(self) -> dict[str, str]:
        """SHA-256 by network."""
        named = {"inception": self.inception, "lpips": self.lpips, "encoder": self.encoder}
        return {name: each.sha256 for name, each in named.items() if each}

    def judge(self, real: Side, generated: Side, *, seed: int = 0) -> Found:
        """Measure two sides of pictures; a statistics file has none, so nothing of it is measured here."""
        scores: dict[str, Any] = {}
        left_out = dict(self.left_out)
        singles: dict[str, Tensor] = {}
        measures: tuple[tuple[Any, Callable[..., Measured]], ...] = (
            (self.inception, _inception),
            (self.lpips, _lpips),
            (self.encoder, _captions),
        )
        for network, measure in measures if real.pictures is not None and generated.pictures is not None else ():
            if network:
                measured, missing, single = measure(network, real, generated, seed)
                scores, left_out, singles = scores | measured, left_out | missing, singles | single
        return Found(scores=scores, left_out=left_out, weights=self.weights, **singles)


def _inception(network: Inception, real: Side, generated: Side, seed: int) -> Measured:
    sides = {"real": _pictures(real), "generated": _pictures(generated)}
    seen = {name: network.see(each) for name, each in sides.items() if len(each) >= FEWEST}
    scores: dict[str, Any] = {f"{IS}, {name}": inception_score(each.logits) for name, each in seen.items()}
    left_out = {
        f"{IS}, {name}": f"{len(each):,} pictures; {FEWEST:,} are needed, ten for each of {CLASSES:,} classes"
        for name, each in sides.items()
        if name not in seen
    }
    num, needed = min(map(len, sides.values())), SAMPLES_A_DIMENSION * DIMENSIONS
    if num < needed:
        left_out[FID] = f"{num:,} pictures a side; {needed:,} are needed, ten for each of {DIMENSIONS:,} dimensions"
        return scores, left_out, {}
    measured, missing = fid(seen["real"], seen["generated"], torch.Generator().manual_seed(seed))
    return scores | measured, left_out | missing, {}


def fid(real: Seen, generated: Seen, generator: torch.Generator) -> tuple[dict[str, Any], dict[str, str]]:
    """FID at equal N, of the larger side a draw; its floor, and at infinite N: scores, and what is left out. Raises ValueError."""
    num = min(len(real.features), len(generated.features))
    sides = draw(real.features, num, generator), draw(generated.features, num, generator)
    return frechet_scores(FID, real.features, sides, generator)


def _lpips(network: Lpips, real: Side, generated: Side, seed: int) -> Measured:
    first, second = pairs(real.names, generated.names)
    if not first:
        return {}, {LPIPS: "no picture has the name of one of the other side; name a pair's pictures alike"}, {}
    try:
        distances = network.distances(_pictures(generated)[second], _pictures(real)[first])
    except ValueError as error:
        return {}, {LPIPS: str(error)}, {}
    mean, spread = mean_error(distances)
    scores = {f"{LPIPS}, {len(first):,} pairs": mean, f"{LPIPS}, standard error": spread}
    return scores, {}, {"lpips": _spread(distances, second, len(generated.names))}


def pairs(real: Sequence[str], generated: Sequence[str]) -> tuple[list[int], list[int]]:
    """Rows of both sides with the same name, endings of files apart; a name that a side has twice is in no pair."""
    places = [_places(names) for names in (real, generated)]
    both = [name for name in places[1] if name in places[0]]
    return [places[0][name] for name in both], [places[1][name] for name in both]


def _places(names: Sequence[str]) -> dict[str, int]:
    stems = [splitext(name)[0] for name in names]
    counts = Counter(stems)
    return {stem: k for k, stem in enumerate(stems) if counts[stem] == 1}


def _captions(network: ImageTextEncoder, real: Side, generated: Side, seed: int) -> Measured:
    scores: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    singles: dict[str, Tensor] = {}
    for name, side in (("real", real), ("generated", generated)):
        rows = [k for k, caption in enumerate(side.captions) if caption]
        captions = [side.captions[k] for k in rows]
        distinct = list(dict.fromkeys(captions))
        if len(distinct) < 2:
            left_out[f"{CAPTIONS}, {name}"] = (
                f"{len(distinct)} different captions of {len(side.names):,} pictures; two are needed"
            )
            continue
        number = {caption: k for k, caption in enumerate(distinct)}
        texts = network.texts(distinct)[[number[caption] for caption in captions]]
        pictures = network.pictures(_pictures(side)[rows])
        match = caption_match(pictures, texts, captions)
        scores |= _told(name, match) | _told(f"{name}, shuffled", shuffled(pictures, texts, captions, seed))
        if side is generated:
            both = {"cosine": match.cosine, "nearest": match.nearest}
            singles = {key: _spread(values, rows, len(side.names)) for key, values in both.items()}
    return scores, left_out, singles


def _told(name: str, match: CaptionMatch) -> dict[str, Any]:
    return {
        f"caption cosine, {name}": match.mean_cosine,
        f"caption nearest of {match.among}, {name}": match.share_nearest,
    }


def _spread(values: Tensor, rows: Sequence[int], num: int) -> Tensor:
    """(num,) with the values at their rows, nan elsewhere."""
    whole = torch.full((num,), float("nan"), dtype=torch.float64)
    whole[list(rows)] = values
    return whole


def _pictures(side: Side) -> Tensor:
    assert side.pictures is not None
    return side.pictures
