"""Files beside pictures: cat.txt, cat.caption or cat.jpg.txt holds the caption of cat.jpg, cat.json the facts of img2dataset."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.captions import MAX_CAPTION_BYTES, check_caption, decode_caption
from data.index.items import whole
from data.index.tree import Tree
from data.tar import MEMBER_LIMITS, Span

CAPTIONS = (".txt", ".caption")


@dataclass(frozen=True, kw_only=True)
class Beside:
    """What lies beside the pictures: path of a picture without suffix -> suffix -> path.

    suffixes are those of caption files; column is the field of the .json that holds captions, if no files of their own
    do; columns are the suffixes and fields of several captions.
    """

    folder: Path
    files: dict[Path, dict[str, Path]]
    suffixes: tuple[str, ...]
    column: str | None
    columns: tuple[str, ...] = ()

    @property
    def has_captions(self) -> bool:
        """Whether captions lie beside the pictures, in files or in a field of the .json."""
        return bool(self.suffixes or self.column or self.columns)

    @property
    def own(self) -> set[str]:
        """The columns of several captions that are files of their own."""
        return {name for name in self.columns if _suffix(name) in self.suffixes}

    @property
    def has_fields(self) -> bool:
        """Whether captions are fields of the .json: where all have files of their own, it is not read."""
        return bool(self.column) or self.own != set(self.columns)

    @property
    def read(self) -> set[Path]:
        """The paths that are read as captions."""
        suffixes = (*self.suffixes, ".json") if self.has_fields else self.suffixes
        return {path for paths in self.files.values() for suffix, path in paths.items() if suffix in suffixes}

    def caption(self, picture: Path) -> str:
        """The caption of a picture, empty if it has none; ValueError if it cannot be read."""
        paths = self.files.get(picture.with_suffix(""), {})
        if self.column:
            return _field(self.folder / paths[".json"], self.column) if ".json" in paths else ""
        path = next((paths[suffix] for suffix in self.suffixes if suffix in paths), None)
        if path is None:
            return ""
        return _text(self.folder / path)

    def told(self, picture: Path) -> dict[str, Any]:
        """What several captions may be made of: the fields of the .json, and texts of own files. Raises ValueError."""
        paths = self.files.get(picture.with_suffix(""), {})
        texts = {name: _text(self.folder / paths[_suffix(name)]) for name in self.own if _suffix(name) in paths}
        return (_fields(self.folder / paths[".json"]) if self.has_fields and ".json" in paths else {}) | texts

    def facts(self, picture: Path) -> Span | None:
        """Where the picture's .json lies; None without one, or if it exceeds the size limit."""
        path = self.files.get(picture.with_suffix(""), {}).get(".json")
        span = whole(self.folder / path) if path else None
        return span if span and span.size <= MEMBER_LIMITS["json"] else None


def find_beside(tree: Tree, text_column: str | None, columns: tuple[str, ...] = ()) -> Beside:
    """Find the captions beside the pictures. text_column: suffix of their files, or else their field in the .json.

    columns: the same, of several captions.
    """
    files: dict[Path, dict[str, Path]] = {path.with_suffix(""): {} for path in tree.pictures}
    pictures = set(tree.pictures)
    for path in tree.files:
        if path in pictures:
            continue
        stem = path.with_suffix("")
        stem = stem.with_suffix("") if stem in pictures else stem  # cat.jpg.txt
        if stem in files:
            files[stem].setdefault(path.suffix.lower(), path)
    suffixes = {suffix for paths in files.values() for suffix in paths}
    if columns:
        own = tuple(dict.fromkeys(suffix for suffix in map(_suffix, columns) if suffix in suffixes))
        return Beside(folder=tree.folder, files=files, suffixes=own, column=None, columns=columns)
    if text_column is None:
        _check_one_each(tree.folder, files)
        return Beside(
            folder=tree.folder, files=files, suffixes=tuple(s for s in CAPTIONS if s in suffixes), column=None
        )
    if (suffix := _suffix(text_column)) in suffixes:
        return Beside(folder=tree.folder, files=files, suffixes=(suffix,), column=None)
    if ".json" in suffixes:
        return Beside(folder=tree.folder, files=files, suffixes=(), column=text_column)
    raise ValueError(
        f"--text-column {text_column!r}: no {suffix} and no .json lies beside a picture of {tree.folder}; "
        f"there are {', '.join(sorted(suffixes)) or 'pictures only'}"
    )


def _check_one_each(folder: Path, files: dict[Path, dict[str, Path]]) -> None:
    for paths in files.values():
        if captions := [paths[suffix] for suffix in CAPTIONS if suffix in paths][1:]:
            raise ValueError(
                f"source {folder}: {captions[0]} lies beside a .txt; say which is the caption: --text-column txt or caption"
            )


def _suffix(name: str) -> str:
    return f".{name.lower()}"


def _text(path: Path) -> str:
    with path.open("rb") as file:
        return decode_caption(file.read(MAX_CAPTION_BYTES + 1))


def _fields(path: Path) -> dict[str, Any]:
    if path.stat().st_size > MEMBER_LIMITS["json"]:
        raise ValueError("its .json is too large to read")
    try:
        fields = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError("its .json is broken") from error
    if not isinstance(fields, dict):
        raise ValueError("its .json is broken")
    return fields


def _field(path: Path, name: str) -> str:
    value = _fields(path).get(name)
    if not isinstance(value, str | None):
        raise ValueError("caption is no text")
    return check_caption(value or "")
