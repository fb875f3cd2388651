"""A side of a vote: pictures on disk with a name, a caption and a hash each. Nothing else of them is kept in memory."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from cascade.judge.vote.captions import captions_of, written_caption
from cascade.serve.jobs.history import INDEX, history
from data.decode import PACK_FORMATS, decode_image, read_file
from data.index.tree import look

MANIFEST = "cascade.json"  # of cascade.manifest, which loads torch


@dataclass(frozen=True, kw_only=True)
class Picture:
    """name: how it pairs with those of other sides. sha256: of the file, so that votes are never told of other pictures."""

    name: str
    path: Path
    caption: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Side:
    """Pictures in the order of their names. broken: files that are left out, and why."""

    name: str
    pictures: tuple[Picture, ...]
    broken: tuple[str, ...] = ()

    @property
    def sha256(self) -> str:
        """Of names, captions and contents."""
        lines = [f"{each.name}\0{each.caption}\0{each.sha256}\n" for each in self.pictures]
        return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def is_cascade(source: str) -> bool:
    """Whether a side is a folder of bundles: it has a manifest, as every --out of train.py."""
    return (Path(source) / MANIFEST).is_file()


def load_side(source: str, note: Callable[[str], None] = lambda _: None) -> Side:
    """The pictures of a folder, of a server's STORE, or of one job of it, STORE:JOB. Each file is decoded once.

    A file that cannot be read is told to `note` and left out. Raises ValueError, OSError.
    """
    path = Path(source)
    if (path / INDEX).is_file():
        return _read(source, _of_store(path), note)
    store, _, job = source.rpartition(":")
    if job and not path.exists() and (Path(store) / INDEX).is_file():
        return _read(source, _of_store(Path(store), job), note)
    if not path.is_dir():
        told = "is a file" if path.exists() else "is not there"
        raise ValueError(f"{source} {told}; name a folder of pictures, a cascade, or a server's STORE or STORE:JOB")
    return _read(source, _of_folder(path), note)


Found = Iterable[tuple[str, Path, str | None]]  # name, path, caption; None: as the file itself says


def _of_folder(folder: Path) -> Found:
    captions = captions_of(folder)
    for path in look(folder).pictures:
        yield path.with_suffix("").as_posix(), folder / path, captions.get(path.as_posix())


def _of_store(folder: Path, job: str = "") -> Found:
    for made in history(folder, job):
        yield f"{made.job}/{made.k}", made.path, made.prompt


def _read(source: str, found: Found, note: Callable[[str], None]) -> Side:
    pictures: dict[str, Picture] = {}
    broken: list[str] = []
    for name, path, caption in found:
        try:
            content = read_file(path)
            decode_image(content, formats=PACK_FORMATS)
            if name in pictures:
                raise ValueError(f"{pictures[name].path.name} has the same name before the dot")
        except (ValueError, OSError) as error:
            told = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            broken.append(f"{path}: {told}")
            note(f"{path} is left out: {told.removeprefix(f'{path}: ')}")
            continue
        text = written_caption(path) if caption is None else caption
        digest = hashlib.sha256(content).hexdigest()
        pictures[name] = Picture(name=name, path=path, caption=text, sha256=digest)
    if not pictures:
        why = f"none of {len(broken):,} can be read; the first: {broken[0]}" if broken else "there is none"
        raise ValueError(f"{source}: no picture to vote on: {why}")
    ordered = tuple(pictures[name] for name in sorted(pictures))
    return Side(name=source.rstrip("/") or source, pictures=ordered, broken=tuple(broken))
