"""Checks, before anything starts, that data sets hold what is requested; errors take one line."""

import logging
from functools import cache

from data.index import MAX_SMALL, Index
from data.places.store import DataSet
from data.read.facts import check_original_sizes
from data.read.mixture import Opened

log = logging.getLogger("data")


def check_content(
    opened: Opened,
    split: str,
    *,
    resolution: int,
    label: bool,
    text_tokens: int,
    maps: bool = False,
    original_sizes: bool = False,
) -> None:
    """Raise ValueError or OSError unless each data set holds what is requested, and all of them fit together."""
    for data in opened.sets:
        _check_set(data, split, resolution, label, text_tokens)
        if maps and not data.index.maps:
            raise ValueError(f"data {data.name} has no maps; pack with --maps FOLDER, or train without cond.maps")
        if original_sizes:
            check_original_sizes(data, split)
    if maps and len({data.index.maps for data in opened.sets}) > 1:
        raise ValueError("data: maps of some sets are gray, of others coloured; pack all alike")
    opened.agree(label=label, text=text_tokens > 0)


def _check_set(data: DataSet, split: str, resolution: int, label: bool, text_tokens: int) -> None:
    index, name = data.index, f"data {data.name}"
    data.store.check(data.split(split))
    if num_small := index.below(resolution):
        _check_small(index, num_small, resolution, name)
    if label and not index.classes:
        raise ValueError(f"{name} has no class labels; pack with --label-column, or train without label conditioning")
    if text_tokens and not index.text_encoder:
        raise ValueError(
            f"{name} has no text features; pack with --text-encoder minilm, or train without text conditioning"
        )
    if index.text_encoder and text_tokens > index.text_encoder.max_tokens:
        raise ValueError(
            f"{name} has captions cut to {index.text_encoder.max_tokens} tokens, {text_tokens} are asked for; "
            f"pack again with --text-tokens {text_tokens}, or ask for fewer"
        )


def _check_small(index: Index, small: int, resolution: int, what: str) -> None:
    """Refuse too many pictures below the resolution; a few are reported, and readers replace them."""
    num = index.num
    if index.sides is None or small == num:
        raise ValueError(
            f"{what}: pictures are {index.min_side} px, {resolution} px are needed; "
            f"pack larger ones with --size {resolution}"
        )
    message = (
        f"{what}: {small:,} of {num:,} pictures are smaller than {resolution} px (the smallest {index.min_side} px)"
    )
    if small > MAX_SMALL * num:
        raise ValueError(
            f"{message}, at most {MAX_SMALL:.0%} may be; pack them with --size {resolution}, which leaves these out"
        )
    _say_once(f"{message}; the next larger ones take their place")


@cache
def _say_once(line: str) -> None:
    log.warning(line)
