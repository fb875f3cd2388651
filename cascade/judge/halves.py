"""The two halves of a split: what is chosen on one and reported on the other is not flattered by the choice.

A data set may state the half of each picture in its json members: `"half": "dev"` or `"half": "test"`. Otherwise the half is a hash
of the key, so that it does not depend on the other pictures, their order or the shards.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from data.batch import Batch, Cond
from data.read.facts import facts_of
from data.read.shards import read_split

DEV, TEST = "dev", "test"
HALVES = (DEV, TEST)
STATED, HASHED = "as the data state", "by hash of the key"
BATCH = 64  # pictures read at once


@dataclass(frozen=True, kw_only=True)
class Half:
    """The pictures of a half of a split, with their conditions. how: STATED or HASHED. total: pictures of the whole split."""

    pictures: Batch
    name: str
    how: str
    total: int


def half_of(key: str) -> str:
    """The half of a picture by its key."""
    return HALVES[_hash(key)[0] % 2]


def halves(data: str, split: str) -> tuple[dict[str, str], str]:
    """The half of each picture of a split by its key, and how that is known. Raises ValueError if only some are stated."""
    stated = {key: facts.get("half") for key, facts in facts_of(data, split)}
    num = sum(half is not None for half in stated.values())
    if not num:
        return {key: half_of(key) for key in stated}, HASHED
    for key, half in stated.items():
        if half not in HALVES:
            told = f"{num:,} of {len(stated):,} have one" if half is None else f"{half!r} is stated"
            raise ValueError(
                f"data {data}: sample {key} of split {split}: its half must be dev or test, {told}; "
                "state it for every picture, or for none"
            )
    return {key: str(half) for key, half in stated.items()}, STATED


def read_half(
    data: str,
    split: str,
    half: str,
    *,
    resolution: int,
    label: bool = False,
    text_tokens: int = 0,
    maps: bool = False,
    num: int = 0,
) -> Half:
    """Read a half of a split, each picture once. num: most pictures, chosen by the hash of their keys; 0: all.

    Raises ValueError if there is none, or if the data lack what is asked for.
    """
    batches = read_split(
        data, split, batch=BATCH, resolution=resolution, label=label, text_tokens=text_tokens, maps=maps
    )
    of_key, how = halves(data, split)
    keys = sorted((key for key, each in of_key.items() if each == half), key=_hash)
    wanted = set(keys[: num or len(keys)])
    parts = []
    for batch in batches:
        rows = []
        for row, key in enumerate(batch.keys):
            if key in wanted:  # a picture that took the place of a bad one comes twice
                wanted.remove(key)
                rows.append(row)
        if rows:
            parts.append(_rows(batch, rows))
    if not parts:
        raise ValueError(f"data {data}: no picture of split {split} is in its {half} half ({len(of_key):,} in all)")
    pictures = Batch(
        image=torch.cat([part.image for part in parts]),
        cond=Cond.cat([part.cond for part in parts]),
        index=torch.cat([part.index for part in parts]),
        keys=tuple(key for part in parts for key in part.keys),
    )
    return Half(pictures=pictures, name=half, how=how, total=len(of_key))


def portions(pictures: Batch, size: int) -> Iterator[Batch]:
    """Consecutive portions of at most `size` pictures."""
    for begin in range(0, len(pictures), size):
        yield pictures[slice(begin, begin + size)]


def _rows(batch: Batch, rows: list[int]) -> Batch:
    chosen = torch.tensor(rows)
    return Batch(
        image=batch.image[chosen],
        cond=batch.cond[chosen],
        index=batch.index[chosen],
        keys=tuple(batch.keys[row] for row in rows),
    )


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
