"""The output files of a request: one grid, or single files, written as each chunk is done; with metadata in each.

A file belongs to a request if its metadata equal those that would be written now. So the same command continues where it
stopped, and another request never replaces or joins what is there. A grid is assembled from single files, which lie in
NAME.parts until it is complete.

Only files whose metadata say that sample.py wrote them are replaced or removed; files of others never are, whatever the options.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from data.errors import disk_told
from data.files import held

from ..config import UNCERTAINTY
from ..events import Event, StageFinished
from ..plan import Plan
from ..request import Request
from .metadata import as_meant, describe, describe_all
from .pictures import columns_for, grid, read_metadata, read_png, save_png

TEMPORARY = re.compile(r"\.[0-9]+\.[0-9]+\.part")  # temporary file of a `save_png` that was killed
FREE = ("row", "batch")  # keys that may differ between two pictures that are equal up to rounding


@dataclass(frozen=True, kw_only=True)
class Output:
    """Where a request's pictures are written. is_grid: `path` is one .png; else a folder of single files.

    stages: write the pictures of every stage, not only the last. overwrite: replace files of other requests of sample.py.
    uncertainty: write a map beside each picture of the last stage, named like a stage's. stem: name of single files, with numbers
    if there are several; "" names them by number alone.
    """

    path: Path
    is_grid: bool
    stages: bool
    overwrite: bool = False
    stem: str = ""
    uncertainty: bool = False

    @property
    def folder(self) -> Path:
        """The folder of single files."""
        return self.path.with_suffix(".parts") if self.is_grid else self.path

    def grids(self, plan: Plan) -> dict[str, Path]:
        """The files of a grid by stage; the key "" is the last stage."""
        return {"": self.path} | {stage: self.path.with_suffix(f".{stage}.png") for stage in self._below(plan)}

    def _below(self, plan: Plan) -> list[str]:
        """The stages before the last whose pictures are written, too, and UNCERTAINTY where that is."""
        return [*(plan.names[:-1] if self.stages else ()), *((UNCERTAINTY,) if self.uncertainty else ())]

    def single(self, plan: Plan, image: int, stage: str = "") -> Path:
        """The path of a single file; stage "" is the last."""
        digits = "" if self.stem and plan.request.total == 1 else f"{image:06d}"
        return self.folder / ".".join(filter(None, (self.stem, digits, stage, "png")))

    @contextmanager
    def held(self) -> Iterator[None]:
        """Create the folder and lock it against other processes. Raises ValueError."""
        is_new = not self.folder.exists()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(self.path, f"{self.folder} cannot be made ({error.strerror})") from None
        try:
            with held(self.folder / ".lock", f"--out {self.path}"):
                yield
        finally:
            if is_new or self.is_grid:
                with suppress(OSError):  # it is not empty
                    self.folder.rmdir()

    def claim(self, plan: Plan, pick: Sequence[int] = ()) -> Sequence[int] | None:
        """The images of `pick`, or of all, that are still to be computed; empty if only the grid must be assembled, None if
        everything is there. Raises ValueError for files that sample.py did not write and, without `overwrite`, for files of another
        request. Changes nothing."""
        index = pick or plan.index
        self.check_names(plan)
        if self.is_grid:
            grids = self.grids(plan)
            matches = [
                self._is_of(path, describe_all(plan, index, stage))
                for stage, path in grids.items()
                if os.path.lexists(path)
            ]
            if matches == [True] * len(grids):
                return None
            self._check_parts(plan)
        remaining = without(index, self._done(plan, set(pick)), plan.per_chunk)
        return remaining if remaining or self.is_grid else None

    def _check_parts(self, plan: Plan) -> None:
        """Raise ValueError if the folder of a grid's single files holds anything else."""
        own_paths = {path for path, _, _ in self._singles(plan)}
        for path in sorted(self.folder.iterdir()) if self.folder.is_dir() else ():
            if (
                path.name != ".lock"
                and not TEMPORARY.fullmatch(path.name)
                and not (path in own_paths and is_ours(path))
            ):
                raise foreign(path)

    def _done(self, plan: Plan, pick: Collection[int] = ()) -> set[int]:
        """The images whose files all exist and belong to this request. Raises ValueError as `claim` does."""
        required = {"", *self._below(plan)}
        done: dict[int, set[str]] = {}
        for path, image, stage in self._singles(plan):
            is_more = image >= plan.request.total
            if (is_more or stage not in required or (pick and image not in pick)) and not is_ours(path):
                continue  # not written by sample.py, and no name that we need
            if is_more and plan.request.places > 1 and not self.overwrite:
                raise taken(path, "is of a request for more pictures")
            if self._is_of(path, describe(plan, image, stage=stage), (*FREE, "num")) and not is_more:
                done.setdefault(image, set()).add(stage)
        return {image for image, stages in done.items() if required <= stages}

    def old(self, plan: Plan, pick: Sequence[int] = ()) -> list[Path]:
        """Files that sample.py wrote for other requests, which `overwrite` replaces or removes."""
        index = pick or plan.index
        grids = self.grids(plan) if self.is_grid else {}
        expected = [(path, describe_all(plan, index, stage)) for stage, path in grids.items()]
        for path, image, stage in self._singles(plan):
            expected.append((path, describe(plan, image, stage=stage)))
        return [
            path
            for path, metadata in expected
            if is_ours(path) and other_key(path, metadata, FREE if path in grids.values() else (*FREE, "num"))
        ]

    def remove(self, old: Iterable[Path], plan: Plan, pick: Sequence[int] = ()) -> int:
        """Remove those of `old` that were not replaced meanwhile. Returns their number."""
        remaining = set(self.old(plan, pick)) & set(old)
        for path in remaining:
            path.unlink()
        return len(remaining)

    def check_names(self, plan: Plan) -> None:
        """Raise ValueError if the name of a file would be too long for the file system."""
        grids = self.grids(plan).values() if self.is_grid else ()
        last = plan.request.total - 1
        for path in (*grids, *(self.single(plan, last, stage) for stage in ("", *self._below(plan)))):
            check_name(path, str(self.path))

    def check_given(self, plan: Plan, given: Iterable[Path]) -> None:
        """Raise ValueError if the output would overwrite one of the given files."""
        grids = self.grids(plan).values() if self.is_grid else ()
        written = {place_of(path) for path in grids}
        for path in given:
            for target in {place_of(path), path.resolve()}:
                match = self._name(plan).fullmatch(target.name)
                if target in written or (match and target.parent == self.folder.resolve()):
                    raise ValueError(
                        f"--out {self.path}: {path} was given and would be written over; choose another place"
                    )

    def _name(self, plan: Plan) -> re.Pattern[str]:
        """Pattern of the names of single files, with groups `image`, if they are numbered, and `stage`."""
        digits = "" if self.stem and plan.request.total == 1 else r"(?P<image>[0-9]{6,})"
        stage = "|".join(re.escape(name) for name in (*(link.name for link in plan.chain), UNCERTAINTY))
        return re.compile(r"\.".join(filter(None, (re.escape(self.stem), digits))) + rf"(?:\.(?P<stage>{stage}))?\.png")

    def _singles(self, plan: Plan) -> Iterator[tuple[Path, int, str]]:
        """Files with the name of a single file of this output, as (path, image, stage); whatever their content."""
        name = self._name(plan)
        for path in sorted(self.folder.iterdir()) if self.folder.is_dir() else ():
            if match := name.fullmatch(path.name):
                yield path, int(match["image"]) if "image" in name.groupindex else 0, match["stage"] or ""

    def _is_of(self, path: Path, said: dict[str, Any], free: Sequence[str] = FREE) -> bool:
        """Whether a file's metadata are what we would write. Raises ValueError if they are not, and it may not be replaced."""
        if not is_ours(path):
            raise foreign(path)
        key = other_key(path, said, free)
        if key and not self.overwrite:
            raise taken(path, f"is of a request with other {key}")
        return not key

    def count(self, plan: Plan) -> int:
        """Number of images of this request that exist as single files."""
        return sum(
            not stage and is_ours(path) and not other_key(path, describe(plan, image), (*FREE, "num"))
            for path, image, stage in self._singles(plan)
        )

    def write(self, events: Iterable[Event], plan: Plan, pick: Sequence[int] = ()) -> Iterator[Path]:
        """Consume the events of the remaining images, write them, and yield each file of the output when it is complete."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for event in events:
            if isinstance(event, StageFinished) and (event.last or self.stages):
                stage = "" if event.last else event.stage
                made = {stage: event.images}
                if event.last and self.uncertainty:
                    assert event.uncertainty is not None, "the request has no uncertainty"
                    made[UNCERTAINTY] = event.uncertainty
                for row, index in enumerate(event.index):
                    for name, images in made.items():
                        path = self.single(plan, index, name)
                        with disk_told(path):
                            save_png(images[row], path, describe(plan, index, (row, len(event.index)), name))
                        if not self.is_grid:
                            yield path
        if self.is_grid:
            yield from self._put_together(plan, pick or plan.index)

    def _put_together(self, plan: Plan, index: Sequence[int]) -> Iterator[Path]:
        columns = columns_of(plan.request, len(index))
        for stage, path in self.grids(plan).items():
            singles = [self.single(plan, image, stage) for image in index]
            with disk_told(path):
                if len(singles) == 1:
                    singles[0].replace(path)
                else:
                    images = torch.stack([read_png(single) for single in singles])
                    save_png(grid(images, columns), path, describe_all(plan, index, stage))
            yield path
        for stage in self.grids(plan):
            for image in index:
                self.single(plan, image, stage).unlink(missing_ok=True)
        for path in self.folder.iterdir():
            if TEMPORARY.fullmatch(path.name):
                path.unlink(missing_ok=True)
        with suppress(OSError):  # not empty: the lock is in it, or pictures of other images
            self.folder.rmdir()


def columns_of(request: Request, num: int) -> int:
    """Columns of a grid of `num` of its images: all of them have one row per description; but single images of prompts with labels
    are a table, one row per prompt, and those of several scales of guidance one row per description. A part is nearly square."""
    if num < request.total:
        return columns_for(num, 1)
    if request.num == 1 and request.same_noise and (columns := num_scales(request)) > 1:
        return columns
    if request.num > 1 or not request.prompts or len(request.labels) < 2:
        return columns_for(num, request.places)
    prompts = request.prompts_of(range(request.places))
    columns = next((place for place, prompt in enumerate(prompts) if prompt != prompts[0]), len(prompts))
    return columns if num % columns == 0 else 1


def num_scales(request: Request) -> int:
    """Number of different scales of guidance that follow one another and then begin again; 1 without any."""
    scales = max(request.guidance.values(), key=len, default=())
    return next((place for place in range(1, len(scales)) if scales[place] == scales[0]), max(len(scales), 1))


def without(index: Sequence[int], done: set[int], at_once: int) -> Sequence[int]:
    """The images of all chunks that are not complete. Always whole chunks, so that each image is computed in the same batch as
    in an undisturbed run. at_once: images per chunk."""
    if not done:
        return index
    if isinstance(index, range):
        counts = Counter((image - index.start) // at_once for image in done if image in index)
    else:
        counts = Counter(position // at_once for position, image in enumerate(index) if image in done)
    whole_chunks = {chunk for chunk, num in counts.items() if num == min(at_once, len(index) - chunk * at_once)}
    if whole_chunks == set(range(len(whole_chunks))):
        return index[len(whole_chunks) * at_once :]  # a slice: a list may have a billion entries
    return tuple(image for position, image in enumerate(index) if position // at_once not in whole_chunks)


def output_for(out: str, *, stages: bool, overwrite: bool = False, uncertainty: bool = False) -> Output:
    """The output for --out: a .png is a grid, a folder holds single files. Raises ValueError if it cannot be written; creates
    nothing."""
    path = Path(out)
    check_name(path, out)
    is_folder = out.endswith("/") or path.is_dir()
    is_grid = path.suffix.lower() == ".png" and not is_folder
    if path.suffix and not is_grid and not is_folder:
        raise ValueError(f"--out {out}: write a name in .png for a grid, or a folder/ for single files")
    output = Output(path=path, is_grid=is_grid, stages=stages, overwrite=overwrite, uncertainty=uncertainty)
    check_name(output.folder / "000000.png", out)
    existing = next(parent for parent in (output.folder, *output.folder.absolute().parents) if parent.exists())
    if not existing.is_dir():
        raise unwritable(path, f"{existing} is a file")
    if not os.access(existing, os.W_OK):
        raise unwritable(path, f"{existing} is not writable")
    return output


def check_name(path: Path, given: str) -> None:
    """Raise ValueError if a name or path is too long for the file system; `given` is what the user wrote, for the message."""
    max_name, max_path = limits_of(path)
    part = max(path.parts, key=lambda part: len(os.fsencode(part)), default="")
    if len(os.fsencode(part)) > max_name:
        reason = f"{shortened(part)} would be {len(os.fsencode(part))} bytes long, at most {max_name} are allowed"
    elif len(os.fsencode(path)) > max_path:
        reason = f"the path would be {len(os.fsencode(path))} bytes long, at most {max_path} are allowed"
    else:
        return
    raise ValueError(f"--out {shortened(given)}: {reason}: the name is too long; choose a shorter one")


def limits_of(path: Path) -> tuple[int, int]:
    """Most bytes of a name and of a path, on the file system of `path`."""
    for parent in path.absolute().parents:
        with suppress(OSError):
            return os.pathconf(parent, "PC_NAME_MAX"), os.pathconf(parent, "PC_PATH_MAX") - 1
    return 255, 4095


def shortened(name: str) -> str:
    """A name for messages: of more than 80 characters the middle is left out."""
    return name if len(name) <= 80 else f"{name[:38]}...{name[-38:]}"


def unwritable(path: Path, why: str) -> ValueError:
    """The error for an --out that cannot be written."""
    return ValueError(f"--out {path}: {why}; choose another place")


def is_ours(path: Path) -> bool:
    """Whether sample.py wrote a file, by its metadata."""
    try:
        return isinstance(read_metadata(path).get("stages"), dict)
    except (OSError, ValueError):
        return False


def other_key(path: Path, said: dict[str, Any], free: Sequence[str] = FREE) -> str:
    """The first key in which the metadata of a file differ from `said`, `free` ones aside; "" if it is the same picture."""
    stored, new = as_meant(read_metadata(path)), as_meant(json.loads(json.dumps(said)))
    return next(
        (key for key in sorted(new.keys() | stored.keys()) if key not in free and new.get(key) != stored.get(key)), ""
    )


def place_of(path: Path) -> Path:
    """The path with its folder resolved but, if it is a symbolic link, not the link itself."""
    return path.parent.resolve() / path.name


def foreign(path: Path) -> ValueError:
    """The error for a file that sample.py did not write."""
    return ValueError(f"--out: {path} is there and sample.py did not write it; move it away, or choose another place")


def taken(path: Path, why: str) -> ValueError:
    """The error for a file of another request."""
    return ValueError(f"--out: {path} is there and {why}; choose another place, or --overwrite")
