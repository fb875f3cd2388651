"""What shards say about single pictures: their captions and facts, by which numbers are grouped and samples are labelled."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from data.alpha import to_pixels
from data.captions import decode_caption
from data.decode import decode_image, decode_label
from data.read.mixture import Opened, facts
from data.tar import IMAGE_MEMBERS, stream

GROUPS = ("group", "style", "subgroup", "kind")  # facts by which pictures are grouped, where the data have them
MOST_GROUPS = 40  # of one fact; a fact with more values names pictures, it does not group them


@dataclass(frozen=True, kw_only=True)
class About:
    """A picture's caption and the name of its class, "" without one, and the facts of its json member."""

    caption: str = ""
    label: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


def read_about(data: str, split: str) -> dict[str, About]:
    """Read what a split says about each picture, by key. Raises ValueError for a split that is not there or is damaged."""
    return {key: about for key, about, _ in _told(data, split, ())}


def read_pictures(data: str, split: str, wanted: Callable[[About], bool]) -> Iterator[tuple[About, Tensor]]:
    """The pictures of a split of which the data say what is wanted, uint8 (c, h, w) as they are stored. Raises ValueError."""
    alpha = facts(data).channels == 4
    for _, about, sample in _told(data, split, IMAGE_MEMBERS):
        content = next((sample[kind] for kind in IMAGE_MEMBERS if kind in sample), None)
        if content is not None and wanted(about):
            yield about, torch.from_numpy(to_pixels(decode_image(content, alpha=alpha)))


def _told(data: str, split: str, more: tuple[str, ...]) -> Iterator[tuple[str, About, Mapping[str, bytes]]]:
    """(key, what is said, members) of each sample of a split; more: kinds of members to read, too."""
    kinds = ("txt", "json", "cls", *more)
    for each in Opened.of(data).having(split).sets:
        classes = each.index.classes
        for shard in each.split(split):
            with each.store.open(shard) as file:
                for key, sample in stream(file, each.store.where(shard), lambda kind: kind in kinds):
                    yield (
                        key,
                        About(caption=_caption(sample), label=_label(sample, classes), facts=_facts(sample)),
                        sample,
                    )


def _caption(sample: Mapping[str, bytes]) -> str:
    try:
        return decode_caption(sample.get("txt", b""))
    except ValueError:
        return ""


def _label(sample: Mapping[str, bytes], classes: list[str] | None) -> str:
    try:
        number = decode_label(sample["cls"])
    except (KeyError, ValueError):
        return ""
    return classes[number] if classes and number < len(classes) else ""


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
