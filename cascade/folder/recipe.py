"""The YAML of a cascade for a folder of one's own, with the reason of each choice as a comment on its line."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.index import Index
from stages.measure import statistics

from .choices import Asked, Choices
from .inits import Init, find_init
from .networks import SHARES, Rate, ladder, sized

SHIPPED = Path(__file__).parents[1] / "shipped" / "emoji_tiny"
NAMES = ("base", "sr", "sr")
LEVELS = {"base": (-0.4, 1.5), "super_res": (-1.2, 1.2)}
SAMPLE: tuple[dict[str, Any], ...] = (
    {"num_steps": 16, "sigma_min": 0.05},
    {"num_steps": 4, "sigma_max": 2.0, "sigma_min": 0.1, "aug_sigma": 0.05},
    {"num_steps": 2, "sigma_max": 0.6, "sigma_min": 0.05, "aug_sigma": 0.05},
)
GRAINY = 1_000  # updates, below which low levels are not learned, and painting them gives grain
STOPPED = {"num_steps": 10, "sigma_min": 0.5}
TUNED = 0.25  # of the learning rate from nothing, for a stage that starts from a bundle
ONE_CALL = {"sampler": "euler", "num_steps": 1}
GUIDANCE = {"none": 1.0, "classes": 2.0, "text": 3.0, "both": 3.0}


@dataclass(frozen=True)
class Line:
    """A key of a stage with its value and the reason for it, "" where nothing was chosen."""

    key: str
    value: Any
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Packed:
    """The shards of the stages: their place and index, by stage."""

    places: tuple[Path, ...]
    indexes: tuple[Index, ...]


def recipe(name: str, chosen: Choices, asked: Asked, packed: Packed, rate: Rate, say: Callable[[str], None]) -> str:
    """The whole YAML. Measures the data and this machine. Raises ValueError if the minutes do not reach a first save."""
    lines = [f"# {line}".rstrip() for line in _head(chosen, asked)] + [f"name: {flow(name)}", "stages:"]
    for number, side in enumerate(chosen.sizes.value):
        stage = f"{NAMES[number]}_{side}"
        keys = list(_stage(number, chosen, asked, packed, rate))
        lines += [f"  {stage}:", *(text for line in keys for text in _text(line))]
        net = next(line for line in keys if line.key == "net")
        say(f"{stage}: net {flow(net.value)}: {net.reason}")
        if not number and (few := _few(keys, asked.minutes)):
            say(few)
    return "\n".join(lines) + "\n"


def stage_names(chosen: Choices) -> list[str]:
    """The names of the stages, in order."""
    return [f"{NAMES[number]}_{side}" for number, side in enumerate(chosen.sizes.value)]


def flow(value: Any) -> str:
    """A plain value as YAML on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {flow(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(flow, value)) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return (
            value if value.replace("_", "").isalpha() else '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
        )
    return str(value)


def _few(base: list[Line], minutes: float) -> str:
    """A warning where a base stage will not have learned shapes; "" if it will."""
    train = {line.key: line.value for line in next(line.value for line in base if line.key == "train")}
    updates = train["images"] // train["batch"]
    if updates >= GRAINY or train.get("init"):
        return ""
    return (
        f"{updates:,} updates of the base are few here: expect clouds of colour, not things; "
        f"{GRAINY:,} would take about --minutes {math.ceil(minutes * GRAINY / updates)}"
    )


def _head(chosen: Choices, asked: Asked) -> Iterator[str]:
    yield f"{chosen.num_training:,} pictures to train on, {asked.minutes:g} minutes: written by cascade.demo, yours to change"
    yield f"held out: {chosen.val.value:.4g} ({chosen.val.reason})"


def _text(line: Line) -> Iterator[str]:
    if isinstance(line.value, list) and line.value and isinstance(line.value[0], Line):
        yield f"    {line.key}:"
        for each in line.value:
            yield f"      {each.key}: {flow(each.value)}" + (f"  # {each.reason}" if each.reason else "")
    else:
        yield f"    {line.key}: {flow(line.value)}" + (f"  # {line.reason}" if line.reason else "")


def _stage(number: int, chosen: Choices, asked: Asked, packed: Packed, rate: Rate) -> Iterator[Line]:
    """The lines of a stage, in the order of the YAML."""
    sides = chosen.sizes.value
    kind, side, below = "super_res" if number else "base", sides[number], sides[number - 1] if number else 0
    data, index = packed.places[number], packed.indexes[number]
    found = statistics(str(data), side, below)
    mean, std = LEVELS[kind]
    channels = chosen.channels.value
    stage: dict[str, Any] = {"kind": kind, "resolution": side, "channels": channels}
    stage["noise"] = {"sigma_data": float(f"{found.sigma_data:.3f}"), "mean": mean, "std": std}
    if number:
        stage |= {
            "low_res": below,
            "low_res_sigma": max(0.001, float(f"{found.low_res_sigma:.3f}")),
            "aug": {"max_sigma": 0.5},
        }
    if number == 2:
        stage["crop"] = 64
    cond = {} if number else _cond(chosen)
    if cond:
        stage["cond"] = cond
    init, why_not = _init(stage, asked, data, index)
    nets = [init.net] if init else ladder(number, chosen.has_text)
    fitting = sized(
        stage, nets, minutes=asked.minutes, share=SHARES[len(sides)][number],
        pictures=max(1, index.num_images.get("train", 0)), rate=rate,
    )  # fmt: skip

    yield Line("kind", kind)
    yield Line("resolution", side, chosen.sizes.reason if side == sides[-1] else "")
    if number:
        yield Line("low_res", below)
    if number == 2:
        yield Line("crop", 64, "whole pictures cost more and teach little more")
    yield Line("channels", channels, chosen.channels.reason)
    yield Line("net", fitting.net, fitting.reason)
    if cond:
        yield Line(
            "cond",
            cond,
            f"{chosen.condition.reason}; {chosen.tokens.reason}" if chosen.has_text else chosen.condition.reason,
        )
    elif number == 0:
        yield Line("cond", {}, f"none: {chosen.condition.reason}")
    yield Line("noise", stage["noise"], f"sigma_data measured on {found.num:,} pictures")
    if number:
        yield Line("low_res_sigma", stage["low_res_sigma"], "measured: what upsampling loses")
        yield Line("aug", stage["aug"], "how far the picture below may be distrusted")
    yield Line("train", list(_train(fitting, chosen, init, why_not)))
    guided = {"guidance_scale": GUIDANCE[chosen.condition.value]} if cond else {}
    updates = fitting.length.images // fitting.batch
    if updates >= GRAINY or init:
        yield Line("sample", SAMPLE[number] | guided)
    elif number:
        yield Line(
            "sample",
            SAMPLE[number] | ONE_CALL,
            f"{updates:,} updates are few: one call gives the mean, which has no grain",
        )
    else:
        few = f"{updates:,} updates are few: what is below this level was hardly learned and would be grain"
        yield Line("sample", SAMPLE[number] | STOPPED | guided, few)


def _train(fitting: Any, chosen: Choices, init: Init | None, why_not: str) -> Iterator[Line]:
    length, updates = fitting.length, fitting.length.images // fitting.batch
    yield Line("images", length.images, "what fits into its share of the time")
    yield Line("batch", fitting.batch, "small: short runs want many updates")
    if init:
        yield Line(
            "lr",
            float(f"{length.lr * TUNED:.2g}"),
            f"a quarter of 2 / sqrt({updates:,} updates): it has learned already",
        )
    else:
        yield Line("lr", length.lr, f"about 2 / sqrt({updates:,} updates), at most 0.08")
    yield Line("warmup", length.warmup, "100 updates, at most a tenth of the run")
    yield Line("ema", [length.ema], "half-life of the average: a twentieth of the run")
    yield Line("flip", chosen.flip.value, chosen.flip.reason)
    if init:
        yield Line("init", str(init.bundle), init.reason)
    elif why_not:
        yield Line("init", "", f"from nothing: {why_not.removeprefix('no: ')}")
    for key in ("save_every", "grid_every", "log_every"):
        yield Line(key, getattr(length, key))


def _cond(chosen: Choices) -> dict[str, Any]:
    cond: dict[str, Any] = {}
    if chosen.has_text:
        tokens = chosen.tokens.value
        cond["text"] = {"encoder": "minilm", "dim": 384, "tokens": tokens, "packed_tokens": tokens, "noise": 0.1}
    if chosen.num_classes:
        cond["num_classes"] = chosen.num_classes
    if len(cond) == 2:
        cond["drop_each"] = 0.1
    return cond


def _init(stage: dict[str, Any], asked: Asked, data: Path, index: Index) -> tuple[Init | None, str]:
    if asked.init == "none":
        return None, "as asked for"
    return find_init(stage, Path(asked.init) if asked.init else SHIPPED, data, index, named=bool(asked.init))
