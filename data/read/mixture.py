"""Several data sets as one: weights, how streams are divided by them, what the data sets have in common.

On a command line: `--data A --data B=0.25`, with the weight after the last `=`, 1 without one.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from data.index import Index, TextInfo
from data.places.address import ACCESS, Access, open_place
from data.places.store import DataSet
from data.read.streams import MAX_STREAMS, TOLERANCE, Shape, fits, largest_remainder

Weighted = tuple[str | Path, float]


@dataclass(frozen=True)
class Mixture:
    """Places with weights, and how those that are not local folders may be reached."""

    parts: tuple[Weighted, ...]
    access: Access = ACCESS

    def __post_init__(self):
        if not self.parts:
            raise ValueError("no data; name at least one place of shards")
        for place, weight in self.parts:
            if not 0 < weight < float("inf"):
                raise ValueError(f"data {place}: weight {weight}; it must be above 0 and finite")

    def __str__(self) -> str:
        if len(self.parts) == 1:
            return str(self.parts[0][0])
        return " + ".join(f"{place}={weight:g}" for place, weight in self.parts)


MixtureLike = str | Path | Weighted | Sequence[Weighted] | Mixture


def parse(texts: Iterable[str], access: Access = ACCESS) -> Mixture:
    """Parse ["A", "B=0.25"] of a command line; text after the last = is a weight if it is a number and no such path exists."""
    return Mixture(tuple(_parsed(text) for text in texts), access)


def _parsed(text: str) -> Weighted:
    place, separator, weight = text.rpartition("=")
    if (
        not separator
        or Path(text).exists()
        or not re.fullmatch(r"[-+]?[\d.]+(e[-+]?\d+)?|[-+]?(inf|nan)", weight, re.IGNORECASE)
    ):
        return text, 1.0
    try:
        return place, float(weight)
    except ValueError as error:
        raise ValueError(f"data {text}: weight {weight!r} is no number; write {place}=0.25") from error


def as_mixture(source: MixtureLike) -> Mixture:
    """Convert whatever a `Reader` takes to one form."""
    if isinstance(source, Mixture):
        return source
    if isinstance(source, str | Path):
        return Mixture(((source, 1.0),))
    if len(source) == 2 and isinstance(source[0], str | Path) and isinstance(source[1], int | float):
        return Mixture(((source[0], float(source[1])),))
    return Mixture(tuple((place, float(weight)) for place, weight in source))  # type: ignore[misc,union-attr,str-unpack]


def facts(source: MixtureLike) -> Index:
    """The index of the data; for a mixture what its data sets share, their added counts, and one fingerprint."""
    return Opened.of(source).index


@dataclass(frozen=True)
class Opened:
    """Data sets whose indexes have been read, with their weights."""

    sets: tuple[DataSet, ...]
    weights: tuple[float, ...]

    @classmethod
    def of(cls, source: MixtureLike) -> "Opened":
        """Open every place of `source`."""
        sources = as_mixture(source)
        sets = tuple(open_place(place, sources.access) for place, _ in sources.parts)
        return cls(sets, tuple(weight for _, weight in sources.parts))

    @property
    def name(self) -> str:
        """The places, for messages."""
        return " + ".join(data.name for data in self.sets)

    @property
    def index(self) -> Index:
        """One index for all data sets (see `merged`)."""
        return merged([data.index for data in self.sets], self.weights)

    @property
    def stored_size(self) -> tuple[int, int] | None:
        """(height, width) if all pictures of all data sets share it."""
        sizes = {data.index.size for data in self.sets}
        return sizes.pop() if len(sizes) == 1 else None

    def having(self, split: str) -> "Opened":
        """Only the data sets that have pictures in a split; ValueError if none has."""
        indices = [k for k, data in enumerate(self.sets) if data.index.num_images.get(split)]
        if not indices:
            self.sets[0].index.split(split)
        return Opened(tuple(self.sets[k] for k in indices), tuple(self.weights[k] for k in indices))

    def agree(self, *, label: bool, text: bool) -> None:
        """Raise ValueError naming two data sets that cannot be mixed if labels or text are used."""
        first = self.sets[0]
        for other in self.sets[1:]:
            if label and first.index.classes != other.index.classes:
                raise ValueError(
                    f"data {first.name} and {other.name} number their classes differently; pack both from one list of classes"
                )
            if text and _encoder(first.index) != _encoder(other.index):
                raise ValueError(
                    f"data {first.name} has text features of {_encoder(first.index)}, {other.name} of {_encoder(other.index)}; "
                    "pack both with one --text-encoder"
                )
            if text and _length(first.index) != _length(other.index):
                raise ValueError(
                    f"data {first.name} has captions cut to {_length(first.index)} tokens, {other.name} to "
                    f"{_length(other.index)}; pack both with one --text-tokens"
                )

    def shares(self, streams: int, wanted: Shape | None = None) -> list[int]:
        """Divide `streams` by the weights (largest remainder); ValueError if the result is far from the weights."""
        counts = largest_remainder(self.weights, streams)
        if fits(self.weights, counts):
            return counts
        total, names = sum(self.weights), [data.name for data in self.sets]
        rounded = ", ".join(
            f"{n} {w / total:.3g} -> {c}/{streams}" for n, w, c in zip(names, self.weights, counts, strict=True)
        )
        fix = (wanted or Shape(streams=streams)).fix(self.weights) or (
            f"no number of streams up to {MAX_STREAMS} does; give weights that are closer"
        )
        raise ValueError(f"{streams} streams cannot give these weights within {TOLERANCE:.0%}: {rounded}; {fix}")


def merged(indexes: Sequence[Index], weights: Sequence[float]) -> Index:
    """Merge indexes: counts are added, fields that differ become None, and the fingerprint covers the relative weights."""
    first = indexes[0]
    if len(indexes) == 1:
        return first
    splits = sorted({split for index in indexes for split in index.num_images})
    changes = {
        name: getattr(first, name) if all(getattr(index, name) == getattr(first, name) for index in indexes) else None
        for name in ("resize", "size", "classes")
    }
    changes |= {
        "text_encoder": _common_encoder(indexes),
        "maps": first.maps if all(index.maps == first.maps for index in indexes) else 0,
        "captions": None,  # each data set draws among its own
        "min_side": min(index.min_side for index in indexes),
        "sides": None,
        "num_images": {split: sum(index.num_images.get(split, 0) for index in indexes) for split in splits},
        "shards": [shard for index in indexes for shard in index.shards],
        "has_text": all(index.has_text for index in indexes),
        "label_counts": None,
        "fingerprint": _fingerprint(indexes, weights),
        "skipped": {},
        "notes": {},
        "unread": {},
        "read_as": "",
        "settings": {},
    }
    return first.model_copy(update=changes)


def _common_encoder(indexes: Sequence[Index]) -> TextInfo | None:
    first = indexes[0].text_encoder
    return first if all(index.text_encoder == first for index in indexes) else None


def _encoder(index: Index) -> tuple[str, int] | None:
    return (index.text_encoder.id, index.text_encoder.dim) if index.text_encoder else None


def _length(index: Index) -> int | None:
    return index.text_encoder.max_tokens if index.text_encoder else None


def _fingerprint(indexes: Sequence[Index], weights: Sequence[float]) -> str:
    total = sum(Fraction(weight) for weight in weights)
    rows = [[index.fingerprint, str(Fraction(w) / total)] for index, w in zip(indexes, weights, strict=True)]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()
