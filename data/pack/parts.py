"""The folders at the top of a source as its splits: train, val (valid, validation, dev), test, whatever they contain."""

from dataclasses import dataclass, field
from pathlib import Path

from data.index.items import Choices
from data.index.splits import split_named
from data.index.tree import Tree


@dataclass(frozen=True)
class Parts:
    """Which folder at the top is which split; without any, all pictures are in train."""

    folders: dict[str, str] = field(default_factory=dict)

    def split(self, path: Path) -> str:
        """The split of a picture, by its path within the source."""
        return self.folders.get(path.parts[0], "train")

    def inner(self, path: Path) -> Path:
        """A path relative to the folder of its split."""
        return Path(*path.parts[1:]) if path.parts[0] in self.folders else path


def find_parts(tree: Tree, choices: Choices) -> Parts:
    """Find the folders that are splits; ValueError if only some folders are named so, or only folders further down."""
    pictures = tree.pictures if choices.splits else []
    tops = {path.parts[0] if len(path.parts) > 1 else "": path for path in pictures}
    folders = {top: split for top in tops if (split := split_named(top))}
    if folders and (outside := next((top for top in tops if top not in folders), None)) is not None:
        raise ValueError(
            f"source {tree.folder}: the folder {next(iter(folders))} is called like a split, {tops[outside]} lies in none; "
            "put all pictures into folders of splits, or add --no-splits if these are none"
        )
    if not folders:
        _check_deeper(tree.folder, pictures)
    return Parts(folders)


def _check_deeper(folder: Path, pictures: list[Path]) -> None:
    for path in pictures:
        for depth, part in enumerate(path.parts[:-1]):
            if split_named(part):
                parent = folder.joinpath(*path.parts[:depth])
                raise ValueError(
                    f"source {folder}: {Path(*path.parts[: depth + 1])} is called like a split, but lies further down; "
                    f"name the folder that holds the splits ({parent}), or add --no-splits if these are none"
                )
