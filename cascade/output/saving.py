"""Samples requests into files, for sample.py. Finished images stay whatever ends it, and the same command continues from them."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from data.errors import RunError, disk_told, one_line

from ..cli import say, show
from ..pipeline import Cascade
from ..plan import Plan
from .again import ends_of, plan_of, repainted, said_of
from .destinations import Output, foreign, is_ours, place_of
from .given import GivenFile
from .pictures import levels_apart, read_png, save_png
from .upscale import Pending


def save_all(model: Cascade, jobs: Sequence[Pending], *, pick: Sequence[int] = ()) -> None:
    """Sample what is left of each output and print its files. Of several given pictures, those that cannot be read are reported at
    the end, with a ValueError, after the others were made.

    Whatever ends it, finished images stay, and their number is printed.
    """
    unread: list[str] = []
    with jobs[0][0].held():
        for number, (output, make) in enumerate(jobs, 1):
            what = f"{number} of {len(jobs)}, {output.stem}: " if len(jobs) > 1 else ""
            try:
                plan = make()
            except (ValueError, OSError) as error:
                if len(jobs) == 1:
                    raise
                unread.append(one_line(error))
                continue
            save_one(model, output, plan, pick, what)
    if unread:
        raise ValueError(
            f"{len(unread)} of {len(jobs)} pictures could not be made larger, the others are done: {'; '.join(unread)}"
        )


def save_one(model: Cascade, output: Output, plan: Plan, pick: Sequence[int], what: str = "") -> None:
    """Sample the remaining images of one output and print its files. what: prefix of each line."""
    total = len(pick or plan.index)
    left = output.claim(plan, pick)
    if left is None:
        return say(
            f"{what}nothing to do: {'the image is' if total == 1 else f'all {total} images are'} there", sys.stderr
        )
    old = output.old(plan, pick) if output.overwrite else []
    try:
        events = show(model.sample(plan.picked(left)), len(left), what) if left else ()
        for path in output.write(events, plan, pick):
            say(path)
        if old:
            removed = output.remove(old, plan, pick)
            say(f"{what}of another request {len(old) - removed} files were replaced, {removed} removed", sys.stderr)
    except BaseException:
        if done := output.count(plan):
            say(
                f"{what}{done} of {total} images are in {output.folder}; the same command goes on from there",
                sys.stderr,
            )
        raise


def save_again(
    path: Path, output: Output, folder: Path, files: Sequence[GivenFile], *, device: str, download: bool
) -> None:
    """Make a picture again from its metadata. Raises RunError if the result differs from a PNG that was given, ValueError if the
    cascade, the given pictures or --out do not fit."""
    said = said_of(path)
    first, last = ends_of(said)
    model = Cascade.load(folder, first=first, last=last, device=device, precision=said["precision"], download=download)
    plan = plan_of(path, said, model, files[0] if files else None)
    try:
        model.check(plan.picked((said["image"],) if "image" in said else tuple(said.get("pick", ()))))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    given = [path, *(file.path for file in files)]
    if "image" not in said:
        if not output.is_grid:
            raise ValueError(f"--out {output.path}: {path} is a grid; write a name in .png")
        made, pick = output.path, tuple(said.get("pick", ()))
        output.check_given(plan, given)
        with output.held():
            save_one(model, output, plan, pick)
    else:
        made = output.path if output.is_grid else output.path / f"{path.stem}.png"
        if place_of(made) in {place for each in given for place in (place_of(each), each.resolve())}:
            raise ValueError(f"--out {made}: was given and would be written over; choose another place")
        with output.held():
            if os.path.lexists(made) and not is_ours(made):
                raise foreign(made)
            if made.exists() and not output.overwrite:
                raise ValueError(f"--out {made}: is there; choose another place, or --overwrite")
            image = repainted(model, plan, said)
            with disk_told(made):
                save_png(image, made, said)
        say(made)
    if path.suffix.lower() == ".png" and (apart := levels_apart(read_png(path), read_png(made))):
        raise RunError(
            f"{made}: up to {apart} levels from {path}: made on another kind of machine, with another number of threads (set "
            "OMP_NUM_THREADS), or in other company"
        )
