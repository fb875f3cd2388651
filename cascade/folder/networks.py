"""Networks by size, and which of them sees each picture often enough in the time that a stage has, by its speed on this machine."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from stages.config import StageConfig
from stages.training.length import Length, length_of

from ..train.minutes import TRAINED, check_seconds

SHARES = {2: (0.68, 0.32), 3: (0.60, 0.28, 0.12)}  # of the time, by the number of stages: the base decides what is seen
ENDING = 0.05  # of the time, for samples and scores
EPOCHS = 50
BATCHES = {"base": 16, "super_res": 8}
FEWEST = {"base": 16_000, "super_res": 8_000}  # images, however few pictures there are

BASES: tuple[dict[str, Any], ...] = (
    {"widths": [32, 64], "blocks": [1, 2], "self_attention": [1], "emb_dim": 128},
    {"widths": [48, 96], "blocks": [2, 2], "self_attention": [1], "head_dim": 48, "emb_dim": 128},
    {"widths": [64, 128, 192], "blocks": [2, 2, 2], "self_attention": [1, 2], "dropout": 0.1},
    {"widths": [96, 192, 256], "blocks": [2, 2, 2], "self_attention": [1, 2], "dropout": 0.1},
)
MIDDLES: tuple[dict[str, Any], ...] = (
    {"widths": [16, 32, 64], "blocks": [1, 1, 2], "emb_dim": 128},
    {"widths": [32, 64, 96, 128], "blocks": [1, 2, 2, 2]},
)
TOPS: tuple[dict[str, Any], ...] = ({"widths": [24, 48, 64], "blocks": [1, 1, 2]},)

Rate = Callable[[StageConfig], float]
"""Images a second of a stage's training here."""


@dataclass(frozen=True, kw_only=True)
class Sized:
    """A network with the length of its training; reason: why this one."""

    net: dict[str, Any]
    length: Length
    batch: int
    reason: str


def ladder(number: int, text: bool) -> list[dict[str, Any]]:
    """The networks of stage `number`, smallest first. text: with attention to captions where there is attention."""
    nets = (BASES, MIDDLES, TOPS)[number]
    return [
        net | ({"cross_attention": net["self_attention"]} if text and "self_attention" in net else {}) for net in nets
    ]


def sized(
    stage: dict[str, Any], nets: list[dict[str, Any]], *, minutes: float, share: float, pictures: int, rate: Rate
) -> Sized:
    """The largest network that sees every picture EPOCHS times, else the smallest. stage: its other keys.

    Raises ValueError if even that one cannot be saved once in this time.
    """
    batch = BATCHES[stage["kind"]]
    seconds = 60 * minutes * (1 - ENDING) * TRAINED * share
    wanted = max(EPOCHS * pictures, FEWEST[stage["kind"]])
    chosen: tuple[dict[str, Any], float] | None = None
    for net in nets:
        speed = rate(config_of(stage | {"net": net, "train": {"batch": batch}}))
        if chosen and speed * seconds < wanted:
            break
        chosen = net, speed
        if speed * seconds < 1.5 * wanted:
            break  # the next one costs at least twice as much
    assert chosen
    net, speed = chosen
    check_seconds(seconds, speed, batch, minutes)
    length = length_of(seconds * speed, batch)
    times = f"each of {pictures:,} pictures {length.images / pictures:,.0f} times"
    short = "" if length.images >= wanted else f", where {wanted:,} were wanted"
    reason = f"{speed:,.0f} img/s here: {length.images:,} in {seconds:,.0f} s, {times}{short}"
    return Sized(net=net, length=length, batch=batch, reason=reason)


def config_of(values: dict[str, Any]) -> StageConfig:
    """A stage's config from plain values."""
    return TypeAdapter(StageConfig).validate_python(values, strict=False)
