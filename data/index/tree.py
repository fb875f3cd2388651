"""The files below a folder as a user sees them: without hidden ones and folders left behind by other tools."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

PICTURES = (
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff", ".avif",
)  # fmt: skip
# Thumbnails, trash and snapshots of NAS systems, macOS and Windows, found among pictures.
LEFT_BEHIND = (
    "@eaDir", "@Recycle", "@Recently-Snapshot", "#recycle", "#snapshot", "$RECYCLE.BIN", "System Volume Information",
    "__MACOSX", "__pycache__", "lost+found",
)  # fmt: skip


@dataclass(frozen=True)
class Tree:
    """Paths below `folder`, relative to it and in order. `odd` are broken links and other things that are no files."""

    folder: Path
    files: list[Path] = field(default_factory=list)
    odd: list[Path] = field(default_factory=list)
    hidden: list[Path] = field(default_factory=list)  # folders that were not entered

    @cached_property
    def pictures(self) -> list[Path]:
        """The files with a suffix of PICTURES."""
        return [path for path in self.files if path.suffix.lower() in PICTURES]


def look(folder: Path) -> Tree:
    """List everything below `folder`; linked folders are entered unless they lead back."""
    tree = Tree(folder)
    for path, entry in _entries(folder, Path(), ()):
        if entry.is_dir():
            tree.hidden.append(path)
        elif entry.is_file():
            tree.files.append(path)
        else:
            tree.odd.append(path)
    return tree


def is_hidden(folder: str) -> bool:
    """Whether a folder, by its name, is not the user's: hidden, another tool's, or a data set being made."""
    return folder.startswith(".") or folder.endswith(".part") or folder in LEFT_BEHIND


def suffix_of(path: Path) -> str:
    """The suffix under which a file that is not read is counted."""
    suffixes = path.suffixes[-2:] if path.suffixes[-2:-1] == [".tar"] else path.suffixes[-1:]
    return "".join(suffixes).lower() or "without suffix"


def _entries(folder: Path, here: Path, above: tuple[str, ...]) -> Iterator[tuple[Path, os.DirEntry]]:
    real_path = os.path.realpath(folder)
    if real_path in above:
        return
    with os.scandir(folder) as scan:
        entries = sorted(scan, key=lambda entry: entry.name)
    for entry in entries:
        path = here / entry.name
        if entry.is_dir() and not is_hidden(entry.name):
            yield from _entries(folder / entry.name, path, (*above, real_path))
        elif entry.is_dir() or not entry.name.startswith("."):
            yield path, entry
