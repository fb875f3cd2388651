"""A user's pictures as input of super-resolution stages: as they are, or shrunk to what their stage was trained to enlarge."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from stages.bundle import find_bundle, read_sidecar
from stages.config import SuperResConfig

from ..budget import measured, steps_within, with_steps
from ..link import Link
from ..manifest import read_manifest
from ..pipeline import Cascade
from ..plan import Plan
from ..request import Request
from .destinations import Output
from .given import GivenFile, refuse_if_none
from .maps import check_proportions
from .pictures import user_picture, user_size

Pending = tuple[Output, Callable[[], Plan]]
"""An output, and a function that makes its plan, which may read the given picture only when called."""


@dataclass(frozen=True, kw_only=True)
class Upscaling:
    """Given pictures with their stages. first: the earliest stage needed of the cascade. starts: the stage that each file enters.
    fit: shrink the pictures first."""

    files: Sequence[GivenFile]
    first: str
    starts: Sequence[str]
    fit: bool

    @classmethod
    def of(cls, files: Sequence[GivenFile], folder: Path, *, first: str, fit: bool) -> Self:
        """Choose the stage that each file enters. first: the user's choice for all files, or "". Raises ValueError if no file has a
        stage to enter."""
        if first:
            return cls(files=files, first=first, starts=[first] * len(files), fit=fit)
        takes = takes_of(folder)
        starts, checked = [], []
        for file in files:
            start = ""
            try:
                start = "" if file.fault else choose_start(takes, file.size, fit=fit, what=f"--image {file.path}")
            except ValueError as error:
                file = replace(file, fault=str(error))
            starts.append(start)
            checked.append(file)
        refuse_if_none(checked)
        earliest = min(filter(None, starts), key=list(takes.values()).index)
        return cls(files=checked, first=earliest, starts=[start or earliest for start in starts], fit=fit)

    def num(self, request: Request) -> int:
        """Number of images in all."""
        return request.num * (request.places if len(self.files) == 1 else len(self.files))

    def jobs(
        self,
        model: Cascade,
        request: Request,
        target: Output,
        pick: Sequence[int] = (),
        map_files: Sequence[Path] = (),
    ) -> list[Pending]:
        """One job per file, with the only description and map, or those of its number. map_files: those of the request's maps. The
        job of a file with a fault raises it when its plan is made. Raises ValueError for mistakes that concern all files or
        --out, and if every file has a fault."""
        if len(self.files) > 1 and target.is_grid:
            raise ValueError(f"--out {target.path}: {len(self.files)} pictures are given; write them into a folder/")
        described = request.described
        if len(self.files) > 1 and described not in (1, len(self.files)):
            raise ValueError(
                f"--image: {len(self.files)} pictures and {described} prompts or labels; give one of either, or as many of both"
            )
        if len(self.files) > 1 and request.maps is not None and len(request.maps) not in (1, len(self.files)):
            raise ValueError(
                f"--image: {len(self.files)} pictures and {len(request.maps)} maps; give one map, or as many as pictures"
            )
        for start in dict.fromkeys(self.starts):
            side_of(model, start)
        seconds, request = request.seconds, replace(request, seconds=None)
        made: list[tuple[Output, GivenFile, str, Plan | None]] = []
        for position, (file, start) in enumerate(zip(self.files, self.starts, strict=True)):
            rows = (position,) if len(self.files) > 1 and described > 1 else range(described)
            names = model.names[model.names.index(start) :]
            fields = request.described_by(rows)
            scales = {name: each for name, each in fields["guidance"].items() if name in names}
            file_request = replace(
                request,
                first=start,
                maps=self._maps(request, position),
                **fields | {"guidance": scales},
                settings=agreeing(
                    {name: values for name, values in request.settings.items() if name in names}, model.links, start
                ),
            )
            output = target if target.is_grid else replace(target, stem=file.stem)
            plan = None
            if not file.fault:
                prefix = f"--image {file.path}: "
                try:
                    plan = model.resolve(replace(file_request, low_res=self._like(model, file, start)))
                    model.check(plan.picked(pick))
                    check_proportions(plan.request.maps, plan.sizes[-1], "--map")
                except ValueError as error:
                    fault = str(error) if len(self.files) == 1 else prefix + str(error).removeprefix(prefix)
                    plan, file = None, replace(file, fault=fault)
                else:
                    output.check_names(plan)
                    output.check_given(plan, [*(other.path for other in self.files), *map_files])
            made.append((output, file, start, plan))
        files = [file for _, file, _, _ in made]
        if len({file.fault.removeprefix(f"--image {file.path}: ") for file in files}) == 1:
            files = files[:1]  # all have the same fault, which is the request's: report it once
        refuse_if_none(files)
        plans = [plan for _, _, _, plan in made if plan is not None]
        timed = iter(plans if seconds is None else within(model, plans, seconds))
        return [
            (output, partial(self._given, model, file, start, None if plan is None else next(timed)))
            for output, file, start, plan in made
        ]

    def _maps(self, request: Request, position: int) -> Tensor | None:
        """The maps of the file of this number: all for a single one, else its own, or one that goes with all."""
        if request.maps is None or len(self.files) == 1:
            return request.maps
        return request.maps[position : position + 1] if len(request.maps) > 1 else request.maps

    def _like(self, model: Cascade, file: GivenFile, start: str) -> Tensor:
        """A placeholder of the size that will be given, so that a plan can be made before the picture is read. Raises ValueError
        if the picture is too small to fit."""
        size = file.size
        if self.fit:
            size = user_size(file.path, size, side_of(model, start), model.low_res_multiple(start))
        return torch.zeros(1, dtype=torch.uint8).expand(1, channels_of(model, start), *size)

    def _given(self, model: Cascade, file: GivenFile, start: str, plan: Plan | None) -> Plan:
        """The plan with the picture itself, read now. plan: None for a file with a fault, which is raised. Raises ValueError,
        OSError."""
        if plan is None:
            raise ValueError(file.fault)
        side, multiple, channels = side_of(model, start), model.low_res_multiple(start), channels_of(model, start)
        pixels = user_picture(file.path, side, multiple, channels) if self.fit else file.pixels(channels)
        assert plan.request.low_res is not None
        (h, w), (was_h, was_w) = pixels.shape[-2:], plan.request.low_res.shape[-2:]
        if (h, w) != (was_h, was_w):
            raise ValueError(f"--image {file.path}: changed from {was_w}x{was_h} to {w}x{h} px meanwhile; start again")
        return plan.with_pictures(pixels)


def within(model: Cascade, plans: Sequence[Plan], seconds: float) -> list[Plan]:
    """The plans with as many steps as `seconds` allow for all of them together. Raises ValueError."""
    speeds: dict[str, float] = {}
    for plan in {plan.links[0].name: plan for plan in plans}.values():
        speeds |= measured(plan)
    steps = steps_within(plans, speeds, seconds)
    return [model.resolve(with_steps(plan.request, each)) for plan, each in zip(plans, steps, strict=True)]


def agreeing(settings: Mapping[str, Mapping[str, Any]], links: Sequence[Link], start: str) -> dict[str, dict[str, Any]]:
    """Settings by stage with low-res consistency 1 in the stage that a user's picture enters, unless they or the manifest say
    another: that picture is true, unlike one that a stage has painted. A stage that was trained with degradations is left alone: it
    is there to take noise and blocks out of that picture, and the correction would put them back."""
    entered = next(link for link in links if link.name == start)
    config = entered.sidecar.config
    mends = isinstance(config, SuperResConfig) and config.degrade.probability > 0
    usual = {} if mends or entered.settings.consistency else {"consistency": 1.0}
    return {name: dict(values) for name, values in settings.items()} | {start: {**usual, **settings.get(start, {})}}


def side_of(model: Cascade, stage: str) -> int:
    """The side in px that a stage was trained to enlarge. Raises ValueError for a base stage."""
    low_res = model.links[model.names.index(stage)].contract.low_res
    if low_res is None:
        raise ValueError(f"--image with --from {stage}: a base stage takes no picture; start at a later stage")
    return low_res


def channels_of(model: Cascade, stage: str) -> int:
    """The channels of the pictures that a stage takes."""
    return model.links[model.names.index(stage)].contract.channels


def takes_of(folder: Path) -> dict[int, str]:
    """Map the side in px that a trained super-resolution stage enlarges to its name. Raises ValueError if there is none."""
    takes = {}
    for name, entry in read_manifest(folder).stages.items():
        bundle = find_bundle(folder / entry.bundle)
        if bundle.is_dir() and (low_res := read_sidecar(bundle).contract.low_res):
            takes[low_res] = name
    if not takes:
        raise ValueError(f"cascade {folder}: no trained super-resolution stage to give --image to; train one first")
    return takes


def choose_start(takes: Mapping[int, str], size: tuple[int, int], *, fit: bool, what: str) -> str:
    """The stage that a picture enters: the one with the largest side not above the picture's shorter side, else the one with the
    smallest. With `fit`, which only shrinks, a picture below all sides raises ValueError. what: begins the message."""
    side = min(size)
    fitting = [low_res for low_res in takes if low_res <= side]
    if fit and not fitting:
        raise ValueError(
            f"{what}: its shorter side is {side} px, the smallest stage takes {min(takes)} px; use a larger picture"
        )
    return takes[max(fitting, default=min(takes))]
