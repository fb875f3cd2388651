"""What the `json` members of packed samples say: facts about single pictures that no reader of batches hands on."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data.places.address import open_place
from data.tar import stream


def facts_of(place: str | Path, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(key, facts) of each sample of a split, in order; {} where it has no json member, or one that is no JSON object.

    Raises ValueError for a split that is not there or a shard that is damaged.
    """
    data = open_place(place)
    for shard in data.split(split):
        with data.store.open(shard) as file:
            for key, sample in stream(file, data.store.where(shard), lambda extension: extension == "json"):
                yield key, _facts(sample.get("json", b""))


def _facts(content: bytes) -> dict[str, Any]:
    try:
        facts = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return facts if isinstance(facts, dict) else {}
