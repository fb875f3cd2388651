"""What sample.py needs besides the pipeline: reading its options, showing progress."""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from .config import nearest
from .events import Event, Preview, StageFinished, StageStarted
from .link import Link
from .manifest import read_manifest
from .pipeline import Cascade
from .request import MAX_SIDE

FLAGS = {"num_steps": "--steps", "guidance_scale": "--guidance", "aug_sigma": "--aug-sigma", "sampler": "--sampler"}


def settings_of(model: Cascade, **options: list[str] | None) -> dict[str, dict[str, Any]]:
    """{"num_steps": ["8", "sr_64=4"]} to {"base_16": {"num_steps": "8"}, "sr_64": {"num_steps": "4"}}.

    A value without a stage's name goes to every stage that it concerns.
    """
    names = [link.name for link in model.links]
    settings: dict[str, dict[str, Any]] = {name: {} for name in names}
    for key, values in options.items():
        for value in sorted(values or [], key=lambda v: "=" in v):  # a stage's own value wins over the one for all
            stage, _, text = value.rpartition("=")
            if stage and stage not in names:
                there = f"there are {', '.join(names)}{nearest(stage, names)}"
                raise ValueError(f"{FLAGS[key]} {value}: no stage {stage!r}, {there}")
            for link in model.links:
                if stage == link.name or (not stage and concerns(key, link)):
                    settings[link.name][key] = text
    return settings


def concerns(key: str, link: Link) -> bool:
    """aug_sigma is for super-resolution; guidance for stages with a condition, elsewhere it costs a call and changes nothing."""
    wanted = {"aug_sigma": link.contract.low_res, "guidance_scale": link.is_conditional}
    return bool(wanted.get(key, True))


def class_numbers(model: Cascade, labels: list[str], what: str = "--label") -> tuple[int, ...]:
    """Class names or numbers to numbers; which numbers there are, `Conditions` knows. what: in messages."""
    names = model.conditions.classes
    numbers = []
    for label in labels:
        if label in names:
            numbers.append(names.index(label))
        elif label.isdecimal():
            numbers.append(int(label))
        else:
            known = f"one of the {len(names)} classes of the data" if names else "a name that the bundles know"
            raise ValueError(f"{what} {label[:60]}: neither a number nor {known}{nearest(label, names)}")
    return tuple(numbers)


def lines_of(path: Path) -> list[str]:
    """The prompts of a text file, one a line; empty lines are passed over. Raises ValueError where there is none, OSError."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError:
        raise ValueError(f"--prompts-file {path}: not a text file in UTF-8") from None
    if not any(lines):
        raise ValueError(f"--prompts-file {path}: no prompt in it; write one a line")
    return [line for line in lines if line]


def parse_size(size: str) -> tuple[int, int] | None:
    """ "192x128" (width x height) to (128, 192)."""
    if not size:
        return None
    width, _, height = size.partition("x")
    sides = [int(side) if side.isdecimal() else 0 for side in (height, width)]
    if not all(0 < side <= MAX_SIDE for side in sides):
        raise ValueError(f"--size {size}: write WIDTHxHEIGHT in px, for instance 192x128, at most {MAX_SIDE} a side")
    return sides[0], sides[1]


def choose_start(folder: Path, image: Path) -> str:
    """The super-resolution stage that loses least of a picture: the largest low_res that is not above its shorter side."""
    from data.decode import load_image
    from stages.bundle import find_bundle, read_sidecar

    side = min(load_image(image).size)
    takes = {}
    for name, entry in read_manifest(folder).stages.items():
        bundle = find_bundle(folder / entry.bundle)
        if bundle.is_dir() and (low_res := read_sidecar(bundle).contract.low_res):
            takes[low_res] = name
    if not takes:
        raise ValueError(f"cascade {folder}: no trained super-resolution stage to give --image to; train one first")
    fitting = [low_res for low_res in takes if low_res <= side]
    if not fitting:
        raise ValueError(
            f"--image {image}: its shorter side is {side} px, the smallest stage takes {min(takes)} px; "
            "use a larger picture"
        )
    return takes[max(fitting)]


def show(events: Iterable[Event], total: int) -> Iterator[Event]:
    """The same events with one progress bar a stage; where there is no terminal, one line a stage and chunk."""
    from tqdm import tqdm

    bars: dict[str, tqdm] = {}
    try:
        for event in events:
            if isinstance(event, StageStarted) and event.stage not in bars:
                bars[event.stage] = tqdm(
                    total=total * event.nfe, desc=event.stage, unit="call", disable=None, position=len(bars)
                )
            elif isinstance(event, Preview):
                bars[event.stage].update(len(event.index))
            elif isinstance(event, StageFinished) and bars[event.stage].disable:
                done = f"images {event.index[0]} to {event.index[-1]} of {total} done"
                print(f"{event.stage}: {done}", file=sys.stderr, flush=True)
            yield event
    finally:
        for bar in bars.values():
            bar.close()
