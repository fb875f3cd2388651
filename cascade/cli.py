"""What sample.py needs besides the pipeline: reading its options, showing progress, writing pictures as they come."""

import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .config import nearest
from .events import Event, Preview, StageFinished, StageStarted
from .link import with_settings
from .manifest import read_manifest
from .pictures import columns_for, grid, save_png
from .pipeline import Cascade
from .request import Request


def settings_of(model: Cascade, **options: list[str] | None) -> dict[str, dict[str, Any]]:
    """{"num_steps": ["8", "sr_64=4"]} to {"base_16": {"num_steps": 8}, "sr_64": {"num_steps": 4}}.

    A bare aug_sigma goes to the super-resolution stages alone.
    """
    names = [link.name for link in model.links]
    settings: dict[str, dict[str, Any]] = {name: {} for name in names}
    for key, values in options.items():
        for value in sorted(values or [], key=lambda v: "=" in v):  # a stage's own value wins over the one for all
            stage, _, text = value.rpartition("=")
            if stage and stage not in names:
                raise ValueError(
                    f"--{key.replace('_', '-')} {value}: no stage {stage!r}, there are {', '.join(names)}{nearest(stage, names)}"
                )
            for link in model.links:
                if stage == link.name or (not stage and (key != "aug_sigma" or link.sidecar.contract.low_res)):
                    settings[link.name][key] = text
    return settings


def class_numbers(model: Cascade, labels: list[str]) -> tuple[int, ...]:
    """Class names or numbers to numbers."""
    names = (
        next((link.sidecar.provenance.classes for link in model.links if link.sidecar.provenance.classes), None) or ()
    )
    numbers = []
    for label in labels:
        if label in names:
            numbers.append(names.index(label))
        elif label.isdecimal():
            numbers.append(int(label))
        else:
            raise ValueError(
                f"--label {label}: neither a number nor one of the {len(names)} classes{nearest(label, names)}"
            )
    return tuple(numbers)


def parse_size(size: str) -> tuple[int, int] | None:
    """ "192x128" (width x height) to (128, 192)."""
    if not size:
        return None
    width, _, height = size.partition("x")
    if not (width.isdecimal() and height.isdecimal()) or not (0 < int(width) <= 16384 and 0 < int(height) <= 16384):
        raise ValueError(f"--size {size}: write WIDTHxHEIGHT in px, for instance 192x128, at most 16384 a side")
    return int(height), int(width)


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
            f"--image {image}: its shorter side is {side} px, the smallest stage takes {min(takes)} px; use a larger picture"
        )
    return takes[max(fitting)]


def show(events: Iterable[Event], total: int) -> Iterator[Event]:
    """The same events with one progress bar a stage; where there is no terminal, one line a stage and chunk."""
    from tqdm import tqdm

    bars: dict[str, tqdm] = {}
    for event in events:
        if isinstance(event, StageStarted) and event.stage not in bars:
            bars[event.stage] = tqdm(
                total=total * event.nfe, desc=event.stage, unit="call", disable=None, position=len(bars)
            )
        elif isinstance(event, Preview):
            bars[event.stage].update(len(event.index))
        elif isinstance(event, StageFinished) and bars[event.stage].disable:
            print(
                f"{event.stage}: images {event.index[0]} to {event.index[-1]} of {total} done",
                file=sys.stderr,
                flush=True,
            )
        yield event
    for bar in bars.values():
        bar.close()


@dataclass(frozen=True)
class Output:
    """Where pictures go. is_grid: one .png; else a folder of single files, written as soon as each chunk is done."""

    path: Path
    is_grid: bool
    stages: bool

    def write(self, events: Iterable[Event], model: Cascade, request: Request) -> Iterator[Path]:
        """Consumes the events; yields each file when it is whole."""
        kept: dict[str, list[Tensor]] = {}
        for event in events:
            if not isinstance(event, StageFinished) or not (event.last or self.stages):
                continue
            if self.is_grid:
                kept.setdefault("" if event.last else event.stage, []).append(event.images)
                continue
            for image, index in zip(event.images, event.index, strict=True):
                path = self.path / f"{index:06d}{'' if event.last else '.' + event.stage}.png"
                save_png(image, path, describe(model, request, index))
                yield path
        for stage, parts in kept.items():
            path = self.path.with_suffix(f".{stage}.png") if stage else self.path
            columns = columns_for(request.total, request.places)
            save_png(grid(torch.cat(parts), columns), path, describe(model, request))
            yield path


def output_for(out: str, *, stages: bool) -> Output:
    """Checked before anything is computed: a .png in a folder that can be written, or a folder/ that is made if need be."""
    path = Path(out)
    is_grid = path.suffix.lower() == ".png" and not out.endswith("/") and not path.is_dir()
    folder = path.parent if is_grid else path
    if not is_grid and path.suffix and not out.endswith("/") and not path.is_dir():
        raise ValueError(f"--out {out}: write a name in .png for a grid, or a folder/ for single files")
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise ValueError(f"--out {out}: {folder} is not writable; choose another place")
    return Output(path, is_grid, stages)


def describe(model: Cascade, request: Request, image: int | None = None) -> dict[str, Any]:
    """What made a picture, for its metadata: enough to make it again with the same bundles."""
    links = with_settings(model.links, request.settings)
    said: dict[str, Any] = {"seed": request.seed, "num": request.num}
    if request.prompts:
        said["prompts"] = (
            list(request.prompts) if image is None else [request.prompts[request.place(image) % len(request.prompts)]]
        )
    if request.labels:
        said["labels"] = (
            list(request.labels) if image is None else [request.labels[request.place(image) % len(request.labels)]]
        )
    if image is not None:
        said["image"] = image
    said["stages"] = {
        link.name: {"bundle": link.sidecar.sha256[:12], "nimg": link.sidecar.provenance.nimg}
        | link.settings.model_dump(mode="json")
        for link in links
    }
    return said
