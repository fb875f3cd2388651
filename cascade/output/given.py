"""Pictures that a user gives with --image: their files, sizes, and the names of their results."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from data.alpha import to_pixels
from data.decode import PACK_FORMATS, image_size, load_image, read_file
from data.errors import one_line


@dataclass(frozen=True, kw_only=True)
class GivenFile:
    """A given picture. size: (height, width) in px, upright. stem: name of its results. fault: why it cannot be used, or ""."""

    path: Path
    size: tuple[int, int]
    stem: str
    fault: str = ""

    def pixels(self, channels: int) -> Tensor:
        """Read the pixels, uint8 (1, channels, h, w): on white, or with their transparency for 4. Raises ValueError, OSError."""
        return torch.tensor(to_pixels(load_image(self.path, alpha=channels == 4)))[None]


def given_files(paths: Sequence[Path], note: Callable[[str], None] | None = None) -> list[GivenFile]:
    """The given files, and all pictures of given folders in the order of their names, including those with a fault. note: gets a
    line about what was left out. Raises ValueError if all have a fault, or if the results of two would have the same name."""
    selected: list[Path] = []
    for path in paths:
        if path.is_dir():
            pictures, skipped = pictures_in(path)
            selected += pictures
            if skipped and note:
                note(f"--image {path}: {len(pictures)} pictures; not read are {skipped}")
        else:
            selected.append(path)
    counts = Counter(path.resolve() for path in selected)
    selected = list({path.resolve(): path for path in selected}.values())
    for path in selected:
        if note and (num := counts[path.resolve()]) > 1:
            note(f"--image {path}: given {num} times, made once; --num {num} makes several of each")
    stems = Counter(path.stem for path in selected)
    files = []
    for path in selected:
        stem = path.stem if stems[path.stem] == 1 else path.name  # for a.jpg beside a.png
        try:
            files.append(GivenFile(path=path, size=size_of(path), stem=stem))
        except (ValueError, OSError) as error:
            files.append(GivenFile(path=path, size=(0, 0), stem=stem, fault=one_line(error)))
    repeated = [name for name, num in Counter(file.stem for file in files).items() if num > 1]
    if repeated:
        raise ValueError(f"--image: two pictures are called {repeated[0]}; rename one, or give them in two calls")
    refuse_if_none(files)
    return files


def refuse_if_none(files: Sequence[GivenFile]) -> None:
    """Raise ValueError if every file has a fault."""
    if files and all(file.fault for file in files):
        raise ValueError("; ".join(file.fault for file in files))


def pictures_in(folder: Path, option: str = "--image") -> tuple[list[Path], str]:
    """The pictures of a folder, and the counts of other entries as text. option: begins a message. Raises ValueError if it has no
    picture."""
    pictures, others = [], Counter[str]()
    nested = 0
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            others["hidden"] += 1
        elif path.is_dir():
            others["sub-folders"] += 1
            nested += sum(is_picture(file) for file in path.rglob("*"))
        elif not path.is_file():
            others["no plain files"] += 1
        elif is_picture(path):
            pictures.append(path)
        else:
            others["of other kinds"] += 1
    summary = ", ".join(f"{num} {kind}" for kind, num in others.items())
    if nested:
        summary += f" (with {nested} pictures; name such a folder with another {option})"
    if not pictures:
        hint = f", but {summary}" if summary else ""
        raise ValueError(
            f"{option} {folder}: no picture in it ({', '.join(PACK_FORMATS)}){hint}; name a folder that has some"
        )
    return pictures, summary


def is_picture(path: Path) -> bool:
    """Whether the suffix is that of a picture format that we read."""
    return Image.registered_extensions().get(path.suffix.lower()) in PACK_FORMATS


def size_of(path: Path) -> tuple[int, int]:
    """(height, width) of a picture in px, upright. Raises ValueError, OSError."""
    content = read_file(path)
    try:
        return image_size(content, PACK_FORMATS)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
