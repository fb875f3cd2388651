"""What shards say about single pictures: their captions and facts, by which numbers are grouped and samples are labelled."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from data.captions import decode_caption
from data.read.mixture import Opened
from data.tar import stream

GROUPS = ("group", "style", "subgroup", "kind")  # facts by which pictures are grouped, where the data have them
MOST_GROUPS = 40  # of one fact; a fact with more values names pictures, it does not group them


@dataclass(frozen=True, kw_only=True)
class About:
    """A picture's caption, "" without one, and the facts of its json member."""

    caption: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


def read_about(data: str, split: str) -> dict[str, About]:
    """Read what a split says about each picture, by key. Raises ValueError for a split that is not there or is damaged."""
    found: dict[str, About] = {}
    for each in Opened.of(data).having(split).sets:
        for shard in each.split(split):
            with each.store.open(shard) as file:
                for key, sample in stream(file, each.store.where(shard), lambda kind: kind in ("txt", "json")):
                    found[key] = About(caption=_caption(sample), facts=_facts(sample))
    return found


def _caption(sample: Mapping[str, bytes]) -> str:
    try:
        return decode_caption(sample.get("txt", b""))
    except ValueError:
        return ""


def _facts(sample: Mapping[str, bytes]) -> dict[str, Any]:
    try:
        facts = json.loads(sample.get("json", b""))
    except (ValueError, RecursionError):
        return {}
    return facts if isinstance(facts, dict) else {}


def groupings(about: list[About]) -> dict[str, list[str]]:
    """By fact, the value for each picture ("" where it has none): facts of GROUPS with 2 to MOST_GROUPS values."""
    found = {name: [str(each.facts.get(name, "")) for each in about] for name in GROUPS}
    return {name: values for name, values in found.items() if 1 < len(set(values)) <= MOST_GROUPS}
