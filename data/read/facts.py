"""What the `json` members of packed samples say: facts about single pictures, such as their size before they were packed."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data.places.address import open_place
from data.places.store import DataSet
from data.tar import stream

FACTS_MEMBER = "json"
MAX_ORIGINAL = 1 << 20  # px a side: what is more is no size of a picture


def facts_of(place: str | Path, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(key, facts) of each sample of a split, in order; {} where it has no json member, or one that is no JSON object.

    Raises ValueError for a split that is not there or a shard that is damaged.
    """
    return _facts_of(open_place(place), split)


def original_size(content: bytes) -> tuple[int, int]:
    """(height, width) in px of a picture before it was packed, from its json member: `original_height` and `original_width`, which
    img2dataset writes and data.pack where it packs shards again, else `height` and `width`. Raises ValueError without them."""
    facts = _parsed(content)
    for prefix in ("original_", ""):
        height, width = facts.get(f"{prefix}height"), facts.get(f"{prefix}width")
        if type(height) is type(width) is int and 0 < min(height, width) <= max(height, width) <= MAX_ORIGINAL:
            return height, width
    raise ValueError("its json member has no original size (width and height)")


def check_original_sizes(data: DataSet, split: str) -> None:
    """Raise ValueError unless the first picture of a split states its original size; all that data.pack encoded do."""
    if data.index.settings.get("source") and not _was_kept(data):
        return
    _, facts = next(_facts_of(data, split), ("", {}))
    try:
        original_size(json.dumps(facts).encode())
    except ValueError:
        raise ValueError(
            f"data {data.name} has no original sizes of its pictures; pack them with: python -m data.pack PICTURES SHARDS "
            "(not --keep), or train without cond.original_size"
        ) from None


def _was_kept(data: DataSet) -> bool:
    """Whether the shards are somebody's tars as they were (--keep), whose members may be any."""
    settings = data.index.settings
    return settings.get("source") == "tars" and settings.get("size") == 0


def _facts_of(data: DataSet, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for shard in data.split(split):
        with data.store.open(shard) as file:
            for key, sample in stream(file, data.store.where(shard), lambda extension: extension == FACTS_MEMBER):
                yield key, _parsed(sample.get(FACTS_MEMBER, b""))


def _parsed(content: bytes) -> dict[str, Any]:
    try:
        facts = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return facts if isinstance(facts, dict) else {}
