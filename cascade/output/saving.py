"""Samples requests into files, for sample.py. Finished images stay whatever ends it, and the same command continues from them."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from data.errors import RunError, disk_told, one_line
from data.line import say

from ..cli import show
from ..pipeline import Cascade
from ..plan import Plan
from .again import ends_of, plan_of, repainted, said_of
from .destinations import Output, foreign, is_ours, place_of
from .given import GivenFile
from .maps import maps_of
from .pictures import levels_apart, read_png, save_png
from .upscale import Pending


def save_all(model: Cascade, jobs: Sequence[Pending], *, pick: Sequence[int] = ()) -> None:
    """Sample what is left of each output and print its files. Of several given pictures, those that cannot be read are reported at
    the end, with a ValueError, after the others were made.

    Whatever ends it, finished images stay, and their number is printed.
    """
    failures: list[str] = []
    with jobs[0][0].held():
        for position, (output, make) in enumerate(jobs, 1):
            prefix = f"{position} of {len(jobs)}, {output.stem}: " if len(jobs) > 1 else ""
            try:
                plan = make()
            except (ValueError, OSError) as error:
                if len(jobs) == 1:
                    raise
                failures.append(one_line(error))
                continue
            save_one(model, output, plan, pick, prefix)
    if failures:
        raise ValueError(
            f"{len(failures)} of {len(jobs)} pictures could not be made larger, the others are done: {'; '.join(failures)}"
        )


def save_one(model: Cascade, output: Output, plan: Plan, pick: Sequence[int], what: str = "") -> None:
    """Sample the remaining images of one output and print its files. what: prefix of each line."""
    total = len(pick or plan.index)
    remaining = output.claim(plan, pick)
    if remaining is None:
        return say(
            f"{what}nothing to do: {'the image is' if total == 1 else f'all {total} images are'} there", sys.stderr
        )
    stale = output.old(plan, pick) if output.overwrite else []
    try:
        events = show(model.sample(plan.picked(remaining)), len(remaining), what) if remaining else ()
        for path in output.write(events, plan, pick):
            say(path)
        if stale:
            removed = output.remove(stale, plan, pick)
            say(f"{what}of another request {len(stale) - removed} files were replaced, {removed} removed", sys.stderr)
    except BaseException:
        if num_done := output.count(plan):
            say(
                f"{what}{num_done} of {total} images are in {output.folder}; the same command goes on from there",
                sys.stderr,
            )
        raise


def save_again(
    path: Path,
    output: Output,
    folder: Path,
    files: Sequence[GivenFile],
    *,
    device: str,
    download: bool,
    mask: Path | None = None,
    map_files: Sequence[Path] = (),
) -> None:
    """Make a picture again from its metadata. Raises RunError if the result differs from a PNG that was given, ValueError if the
    cascade, the given pictures or --out do not fit."""
    metadata = said_of(path)
    first, last = ends_of(metadata)
    model = Cascade.load(
        folder, first=first, last=last, device=device, precision=metadata["precision"], download=download
    )
    plan = plan_of(path, metadata, model, files[0] if files else None, mask, maps_of(map_files, model.conditions))
    try:
        model.check(plan.picked((metadata["image"],) if "image" in metadata else tuple(metadata.get("pick", ()))))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    inputs = [path, *(file.path for file in files), *([mask] if mask else []), *map_files]
    if "image" not in metadata:
        if not output.is_grid:
            raise ValueError(f"--out {output.path}: {path} is a grid; write a name in .png")
        target, pick = output.path, tuple(metadata.get("pick", ()))
        output.check_given(plan, inputs)
        with output.held():
            save_one(model, output, plan, pick)
    else:
        target = output.path if output.is_grid else output.path / f"{path.stem}.png"
        if place_of(target) in {
            location for input_path in inputs for location in (place_of(input_path), input_path.resolve())
        }:
            raise ValueError(f"--out {target}: was given and would be written over; choose another place")
        with output.held():
            if os.path.lexists(target) and not is_ours(target):
                raise foreign(target)
            if target.exists() and not output.overwrite:
                raise ValueError(f"--out {target}: is there; choose another place, or --overwrite")
            image = repainted(model, plan, metadata)
            with disk_told(target):
                save_png(image, target, metadata)
        say(target)
    if path.suffix.lower() == ".png" and (levels := levels_apart(read_png(path), read_png(target))):
        raise RunError(
            f"{target}: up to {levels} levels from {path}: made on another kind of machine, with another number of threads (set "
            "OMP_NUM_THREADS), or in other company"
        )
