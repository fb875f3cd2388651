"""Where the pictures of a request go: one grid, or single files as each chunk is done; each with what made it in its metadata.

A file is of a request if its metadata are what would be written now; so the same command goes on where it was, and another request
never replaces or joins what is there. A grid is put together of single files, which lie beside it in NAME.parts until it is whole.

What is replaced or removed has been written by sample.py, as its metadata say; a file of others never is, whatever is asked for.
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

from ..events import Event, StageFinished
from ..plan import Plan
from .metadata import as_meant, describe, describe_all
from .pictures import columns_for, grid, read_metadata, read_png, save_png

PART = re.compile(r"\.[0-9]+\.[0-9]+\.part")  # what `save_png` had not renamed when it was killed
FREE = ("row", "batch")  # may differ between two pictures that are the same but for rounding


@dataclass(frozen=True, kw_only=True)
class Output:
    """is_grid: `path` is one .png; else a folder of single files. stages: the pictures of every stage, not only the last.

    overwrite: what another request of ours left is replaced.
    stem: single files are called so, numbered where there are several; else by their numbers.
    """

    path: Path
    is_grid: bool
    stages: bool
    overwrite: bool = False
    stem: str = ""

    @property
    def folder(self) -> Path:
        """Of single files."""
        return self.path.with_suffix(".parts") if self.is_grid else self.path

    def grids(self, plan: Plan) -> dict[str, Path]:
        """The files of a grid by stage; "" is the last."""
        return {"": self.path} | {stage: self.path.with_suffix(f".{stage}.png") for stage in self._below(plan)}

    def _below(self, plan: Plan) -> list[str]:
        """The stages before the last whose pictures are wanted, too."""
        return plan.names[:-1] if self.stages else []

    def single(self, plan: Plan, image: int, stage: str = "") -> Path:
        number = "" if self.stem and plan.request.total == 1 else f"{image:06d}"
        return self.folder / ".".join(filter(None, (self.stem, number, stage, "png")))

    @contextmanager
    def held(self) -> Iterator[None]:
        """The folder is there and no other process writes into it. Raises ValueError."""
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
        """Which of the images `pick`, or of all, are still to be made; none where a grid is only to be put together, None where
        all is there. Raises ValueError where there is anything of another request and `overwrite` is not set, and for files of
        others. Changes nothing."""
        index = pick or plan.index
        self.check_names(plan)
        if self.is_grid:
            grids = self.grids(plan)
            there = [
                self._is_of(path, describe_all(plan, index, stage))
                for stage, path in grids.items()
                if os.path.lexists(path)
            ]
            if there == [True] * len(grids):
                return None
            self._check_parts(plan)
        left = without(index, self._done(plan, set(pick)), plan.per_chunk)
        return left if left or self.is_grid else None

    def _check_parts(self, plan: Plan) -> None:
        """Raises ValueError where the folder of a grid's single files holds anything else."""
        ours = {path for path, _, _ in self._singles(plan)}
        for path in sorted(self.folder.iterdir()) if self.folder.is_dir() else ():
            if path.name != ".lock" and not PART.fullmatch(path.name) and not (path in ours and is_ours(path)):
                raise foreign(path)

    def _done(self, plan: Plan, pick: Collection[int] = ()) -> set[int]:
        """The images whose files are all there, and of this request."""
        wanted = {"", *self._below(plan)}
        found: dict[int, set[str]] = {}
        for path, image, stage in self._singles(plan):
            is_more = image >= plan.request.total
            if (is_more or stage not in wanted or (pick and image not in pick)) and not is_ours(path):
                continue  # of others, and not in the way
            if is_more and plan.request.places > 1 and not self.overwrite:
                raise taken(path, "is of a request for more pictures")
            if self._is_of(path, describe(plan, image, stage=stage), (*FREE, "num")) and not is_more:
                found.setdefault(image, set()).add(stage)
        return {image for image, stages in found.items() if wanted <= stages}

    def old(self, plan: Plan, pick: Sequence[int] = ()) -> list[Path]:
        """Files of ours, of other requests, that `overwrite` replaces or removes."""
        index = pick or plan.index
        grids = self.grids(plan) if self.is_grid else {}
        there = [(path, describe_all(plan, index, stage)) for stage, path in grids.items()]
        for path, image, stage in self._singles(plan):
            there.append((path, describe(plan, image, stage=stage)))
        return [
            path
            for path, said in there
            if is_ours(path) and other_key(path, said, FREE if path in grids.values() else (*FREE, "num"))
        ]

    def remove(self, old: Iterable[Path], plan: Plan, pick: Sequence[int] = ()) -> int:
        """Removes those of `old` that were not replaced meanwhile; says how many."""
        still = set(self.old(plan, pick)) & set(old)
        for path in still:
            path.unlink()
        return len(still)

    def check_names(self, plan: Plan) -> None:
        """Raises ValueError where a file would have a longer name than there can be."""
        grids = self.grids(plan).values() if self.is_grid else ()
        last = plan.request.total - 1
        for path in (*grids, *(self.single(plan, last, stage) for stage in ("", *self._below(plan)))):
            check_name(path, str(self.path))

    def check_given(self, plan: Plan, given: Iterable[Path]) -> None:
        """Raises ValueError where one of the files that were given would be written."""
        grids = self.grids(plan).values() if self.is_grid else ()
        written = {place_of(path) for path in grids}
        for path in given:
            for place in {place_of(path), path.resolve()}:
                match = self._name(plan).fullmatch(place.name)
                if place in written or (match and place.parent == self.folder.resolve()):
                    raise ValueError(
                        f"--out {self.path}: {path} was given and would be written over; choose another place"
                    )

    def _name(self, plan: Plan) -> re.Pattern[str]:
        """Of single files, with groups `image`, where they are numbered, and `stage`."""
        number = "" if self.stem and plan.request.total == 1 else r"(?P<image>[0-9]{6,})"
        stage = "|".join(re.escape(link.name) for link in plan.chain)
        return re.compile(r"\.".join(filter(None, (re.escape(self.stem), number))) + rf"(?:\.(?P<stage>{stage}))?\.png")

    def _singles(self, plan: Plan) -> Iterator[tuple[Path, int, str]]:
        """Files that are called like ours, with image and stage."""
        name = self._name(plan)
        for path in sorted(self.folder.iterdir()) if self.folder.is_dir() else ():
            if match := name.fullmatch(path.name):
                yield path, int(match["image"]) if "image" in name.groupindex else 0, match["stage"] or ""

    def _is_of(self, path: Path, said: dict[str, Any], free: Sequence[str] = FREE) -> bool:
        """Whether a file is what we would write. Raises ValueError where it is not, and may not be replaced."""
        if not is_ours(path):
            raise foreign(path)
        key = other_key(path, said, free)
        if key and not self.overwrite:
            raise taken(path, f"is of a request with other {key}")
        return not key

    def count(self, plan: Plan) -> int:
        """How many images of this request are there as single files."""
        return sum(
            not stage and is_ours(path) and not other_key(path, describe(plan, image), (*FREE, "num"))
            for path, image, stage in self._singles(plan)
        )

    def write(self, events: Iterable[Event], plan: Plan, pick: Sequence[int] = ()) -> Iterator[Path]:
        """Consumes the events of what was left; yields each file of the output when it is whole."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for event in events:
            if isinstance(event, StageFinished) and (event.last or self.stages):
                stage = "" if event.last else event.stage
                for row, (image, index) in enumerate(zip(event.images, event.index, strict=True)):
                    path = self.single(plan, index, stage)
                    with disk_told(path):
                        save_png(image, path, describe(plan, index, (row, len(event.index)), stage))
                    if not self.is_grid:
                        yield path
        if self.is_grid:
            yield from self._put_together(plan, pick or plan.index)

    def _put_together(self, plan: Plan, index: Sequence[int]) -> Iterator[Path]:
        columns = columns_for(len(index), 1 if len(index) < plan.request.total else plan.request.places)
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
            if PART.fullmatch(path.name):
                path.unlink(missing_ok=True)
        with suppress(OSError):  # the lock is in it, or pictures that were not asked for now
            self.folder.rmdir()


def without(index: Sequence[int], done: set[int], at_once: int) -> Sequence[int]:
    """The images of all chunks that are not done, whole chunks, so that each is computed in the company that it would have had."""
    if not done:
        return index
    if isinstance(index, range):
        number_of = Counter((image - index.start) // at_once for image in done if image in index)
    else:
        number_of = Counter(place // at_once for place, image in enumerate(index) if image in done)
    whole = {n for n, num in number_of.items() if num == min(at_once, len(index) - n * at_once)}
    if whole == set(range(len(whole))):
        return index[len(whole) * at_once :]  # without a list of what may be a billion
    return tuple(image for place, image in enumerate(index) if place // at_once not in whole)


def output_for(out: str, *, stages: bool, overwrite: bool = False) -> Output:
    """A .png for a grid, or a folder for single files. Raises ValueError if it cannot be written; makes nothing yet."""
    path = Path(out)
    check_name(path, out)
    is_folder = out.endswith("/") or path.is_dir()
    is_grid = path.suffix.lower() == ".png" and not is_folder
    if path.suffix and not is_grid and not is_folder:
        raise ValueError(f"--out {out}: write a name in .png for a grid, or a folder/ for single files")
    output = Output(path=path, is_grid=is_grid, stages=stages, overwrite=overwrite)
    check_name(output.folder / "000000.png", out)
    there = next(place for place in (output.folder, *output.folder.absolute().parents) if place.exists())
    if not there.is_dir():
        raise unwritable(path, f"{there} is a file")
    if not os.access(there, os.W_OK):
        raise unwritable(path, f"{there} is not writable")
    return output


def check_name(path: Path, given: str) -> None:
    """Raises ValueError for a name that the file system does not take; `given` is what the user called it."""
    most, longest = limits_of(path)
    part = max(path.parts, key=lambda part: len(os.fsencode(part)), default="")
    if len(os.fsencode(part)) > most:
        why = f"{shortened(part)} would be {len(os.fsencode(part))} bytes long, at most {most} are allowed"
    elif len(os.fsencode(path)) > longest:
        why = f"the path would be {len(os.fsencode(path))} bytes long, at most {longest} are allowed"
    else:
        return
    raise ValueError(f"--out {shortened(given)}: {why}: the name is too long; choose a shorter one")


def limits_of(path: Path) -> tuple[int, int]:
    """Bytes of a name and of a path, where `path` would be."""
    for place in path.absolute().parents:
        with suppress(OSError):
            return os.pathconf(place, "PC_NAME_MAX"), os.pathconf(place, "PC_PATH_MAX") - 1
    return 255, 4095


def shortened(name: str) -> str:
    return name if len(name) <= 80 else f"{name[:38]}...{name[-38:]}"


def unwritable(path: Path, why: str) -> ValueError:
    return ValueError(f"--out {path}: {why}; choose another place")


def is_ours(path: Path) -> bool:
    """Whether the metadata of a file say that sample.py wrote it."""
    try:
        return isinstance(read_metadata(path).get("stages"), dict)
    except (OSError, ValueError):
        return False


def other_key(path: Path, said: dict[str, Any], free: Sequence[str] = FREE) -> str:
    """Of the metadata of a picture of ours the first that differs from `said`; "" where it is the same picture."""
    there, now = as_meant(read_metadata(path)), as_meant(json.loads(json.dumps(said)))
    return next(
        (key for key in sorted(now.keys() | there.keys()) if key not in free and now.get(key) != there.get(key)), ""
    )


def place_of(path: Path) -> Path:
    """Where a name stands, though it may be a link to elsewhere."""
    return path.parent.resolve() / path.name


def foreign(path: Path) -> ValueError:
    return ValueError(f"--out: {path} is there and sample.py did not write it; move it away, or choose another place")


def taken(path: Path, why: str) -> ValueError:
    return ValueError(f"--out: {path} is there and {why}; choose another place, or --overwrite")
