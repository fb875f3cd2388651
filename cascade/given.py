"""Pictures that a user gives to be made larger: which files they are, how large, what their results are called."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from data.decode import PACK_FORMATS, image_size, load_image, read_file, to_array


@dataclass(frozen=True, kw_only=True)
class GivenFile:
    """size: (height, width) in px, upright. stem: what its results are called."""

    path: Path
    size: tuple[int, int]
    stem: str

    @property
    def pixels(self) -> Tensor:
        """(1, 3, h, w) uint8, as it is. Raises ValueError, OSError."""
        return torch.tensor(to_array(load_image(self.path)))[None]


def given_files(paths: Sequence[Path]) -> list[GivenFile]:
    """Files, and all pictures of folders in the order of their names. Raises ValueError for a file that is none, OSError."""
    found: list[Path] = []
    for path in paths:
        found += pictures_in(path) if path.is_dir() else [path]
    found = list({path.resolve(): path for path in found}.values())
    stems = Counter(path.stem for path in found)
    files = []
    for path in found:
        stem = path.stem if stems[path.stem] == 1 else path.name  # a.jpg and a.png, or two folders
        files.append(GivenFile(path=path, size=size_of(path), stem=stem))
    twice = [name for name, num in Counter(file.stem for file in files).items() if num > 1]
    if twice:
        raise ValueError(f"--image: two pictures are called {twice[0]}; rename one, or give them in two calls")
    return files


def pictures_in(folder: Path) -> list[Path]:
    """Raises ValueError where there is none."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    known = Image.registered_extensions()
    found = [path for path in files if known.get(path.suffix.lower()) in PACK_FORMATS]
    if not found:
        raise ValueError(f"--image {folder}: no picture in it ({', '.join(PACK_FORMATS)}); name a folder that has some")
    return found


def size_of(path: Path) -> tuple[int, int]:
    content = read_file(path)
    try:
        return image_size(content, PACK_FORMATS)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
