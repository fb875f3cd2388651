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

from .events import Event, StageFinished
from .metadata import as_meant, describe, describe_all
from .pictures import columns_for, grid, read_metadata, read_png, save_png
from .pipeline import Cascade
from .plan import per_chunk
from .request import Request

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

    def grids(self, model: Cascade, request: Request) -> dict[str, Path]:
        """The files of a grid by stage; "" is the last."""
        stages = model.stages_of(request)[:-1] if self.stages else []
        return {"": self.path} | {stage: self.path.with_suffix(f".{stage}.png") for stage in stages}

    def single(self, request: Request, image: int, stage: str = "") -> Path:
        number = "" if self.stem and request.total == 1 else f"{image:06d}"
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

    def claim(self, model: Cascade, request: Request, pick: Sequence[int] = ()) -> Sequence[int] | None:
        """Which of the images `pick`, or of all, are still to be made; none where a grid is only to be put together, None where
        all is there. Raises ValueError where there is anything of another request and `overwrite` is not set, and for files of
        others. Changes nothing."""
        index = pick or request.index
        self.check_names(model, request)
        if self.is_grid:
            grids = self.grids(model, request)
            there = [
                self._is_of(path, describe_all(model, request, index, stage))
                for stage, path in grids.items()
                if os.path.lexists(path)
            ]
            if there == [True] * len(grids):
                return None
            self._check_parts(model, request)
        left = without(index, self._done(model, request, set(pick)), per_chunk(model.links, request))
        return left if left or self.is_grid else None

    def _check_parts(self, model: Cascade, request: Request) -> None:
        """Raises ValueError where the folder of a grid's single files holds anything else."""
        ours = {path for path, _, _ in self._singles(model, request)}
        for path in sorted(self.folder.iterdir()) if self.folder.is_dir() else ():
            if path.name != ".lock" and not PART.fullmatch(path.name) and not (path in ours and is_ours(path)):
                raise foreign(path)

    def _done(self, model: Cascade, request: Request, pick: Collection[int] = ()) -> set[int]:
        """The images whose files are all there, and of this request."""
        wanted = {"", *(model.stages_of(request)[:-1] if self.stages else ())}
        found: dict[int, set[str]] = {}
        for path, image, stage in self._singles(model, request):
            is_more = image >= request.total
            if (is_more or stage not in wanted or (pick and image not in pick)) and not is_ours(path):
                continue  # of others, and not in the way
            if is_more and request.places > 1 and not self.overwrite:
                raise taken(path, "is of a request for more pictures")
            if self._is_of(path, describe(model, request, image, stage=stage), (*FREE, "num")) and not is_more:
                found.setdefault(image, set()).add(stage)
        return {image for image, stages in found.items() if wanted <= stages}

    def old(self, model: Cascade, request: Request, pick: Sequence[int] = ()) -> list[Path]:
        """Files of ours, of other requests, that `overwrite` replaces or removes."""
        index = pick or request.index
        grids = self.grids(model, request) if self.is_grid else {}
        there = [(path, describe_all(model, request, index, stage)) for stage, path in grids.items()]
        for path, image, stage in self._singles(model, request):
            there.append((path, describe(model, request, image, stage=stage)))
        return [
            path
            for path, said in there
            if is_ours(path) and other_key(path, said, FREE if path in grids.values() else (*FREE, "num"))
        ]

    def remove(self, old: Iterable[Path], model: Cascade, request: Request, pick: Sequence[int] = ()) -> int:
        """Removes those of `old` that were not replaced meanwhile; says how many."""
        still = set(self.old(model, request, pick)) & set(old)
        for path in still:
            path.unlink()
        return len(still)

    def check_names(self, model: Cascade, request: Request) -> None:
        """Raises ValueError where a file would have a longer name than there can be."""
        grids = self.grids(model, request).values() if self.is_grid else ()
        stages = {"", *(model.stages_of(request)[:-1] if self.stages else ())}
        for path in (*grids, *(self.single(request, request.total - 1, stage) for stage in stages)):
            check_name(path, str(self.path))

    def check_given(self, model: Cascade, request: Request, given: Iterable[Path]) -> None:
        """Raises ValueError where one of the files that were given would be written."""
        grids = self.grids(model, request).values() if self.is_grid else ()
        written = {place_of(path) for path in grids}
        for path in given:
            for place in {place_of(path), path.resolve()}:
                match = self._name(model, request).fullmatch(place.name)
                if place in written or (match and place.parent == self.folder.resolve()):
                    raise ValueError(
                        f"--out {self.path}: {path} was given and would be written over; choose another place"
                    )

    def _name(self, model: Cascade, request: Request) -> re.Pattern[str]:
        """Of single files, with groups `image`, where they are numbered, and `stage`."""
        number = "" if self.stem and request.total == 1 else r"(?P<image>[0-9]{6,})"
        stage = "|".join(map(re.escape, model.names))
        return re.compile(r"\.".join(filter(None, (re.escape(self.stem), number))) + rf"(?:\.(?P<stage>{stage}))?\.png")

    def _singles(self, model: Cascade, request: Request) -> Iterator[tuple[Path, int, str]]:
        """Files that are called like ours, with image and stage."""
        name = self._name(model, request)
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

    def count(self, model: Cascade, request: Request) -> int:
        """How many images of this request are there as single files."""
        return sum(
            not stage and is_ours(path) and not other_key(path, describe(model, request, image), (*FREE, "num"))
            for path, image, stage in self._singles(model, request)
        )

    def write(
        self, events: Iterable[Event], model: Cascade, request: Request, pick: Sequence[int] = ()
    ) -> Iterator[Path]:
        """Consumes the events of what was left; yields each file of the output when it is whole."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for event in events:
            if isinstance(event, StageFinished) and (event.last or self.stages):
                stage = "" if event.last else event.stage
                for row, (image, index) in enumerate(zip(event.images, event.index, strict=True)):
                    path = self.single(request, index, stage)
                    with disk_told(path):
                        save_png(image, path, describe(model, request, index, (row, len(event.index)), stage))
                    if not self.is_grid:
                        yield path
        if self.is_grid:
            yield from self._put_together(model, request, pick or request.index)

    def _put_together(self, model: Cascade, request: Request, index: Sequence[int]) -> Iterator[Path]:
        columns = columns_for(len(index), 1 if len(index) < request.total else request.places)
        for stage, path in self.grids(model, request).items():
            singles = [self.single(request, image, stage) for image in index]
            with disk_told(path):
                if len(singles) == 1:
                    singles[0].replace(path)
                else:
                    images = torch.stack([read_png(single) for single in singles])
                    save_png(grid(images, columns), path, describe_all(model, request, index, stage))
            yield path
        for stage in self.grids(model, request):
            for image in index:
                self.single(request, image, stage).unlink(missing_ok=True)
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
