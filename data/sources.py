"""Where pictures come from: a folder with metadata.jsonl, a folder a class, a plain folder, or webdataset tars.

Each becomes a list of `Item`s with unique keys, and of the files that were named but cannot be used. Nothing is
decoded here.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from data.decode import MAX_CLASSES
from data.index import load
from data.tar import IMAGE_MEMBERS, MEMBER_LIMITS, Span, contents

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif")
KINDS = ("metadata", "classes", "plain", "tars")
METADATA = "metadata.jsonl"


@dataclass(frozen=True)
class Item:
    """A picture to pack. `name` is its path within the source; `old` are members of a tar that are carried over."""

    key: str
    name: str
    image: Span
    text: str | None = None
    label: int | None = None
    extra: dict = field(default_factory=dict)
    old: dict[str, Span] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    items: list[Item]
    bad: list[tuple[str, str]]  # (reason, name)
    classes: list[str] | None = None


def find_kind(folder: Path) -> str:
    """Which of KINDS a folder is, by what lies in it."""
    if (folder / METADATA).is_file():
        return "metadata"
    if any(folder.glob("*.tar")):
        return "tars"
    if any(_is_picture(path) for path in folder.iterdir()):
        return "plain"
    if any(_is_picture(path) for sub in folder.iterdir() if sub.is_dir() for path in sub.rglob("*")):
        return "classes"
    if any(folder.rglob("*.tar")):
        return "tars"
    raise ValueError(
        f"source {folder} has no pictures ({', '.join(SUFFIXES)}), no {METADATA} and no .tar; name a folder that has"
    )


def list_source(folder: Path, kind: str, text_column: str, label_column: str | None) -> Source:
    """Everything to pack from `folder`, label_column None is 'label' where there is such a column."""
    if kind == "metadata":
        return _metadata(folder, text_column, label_column)
    if kind == "tars":
        return _tars(folder)
    return _classes(folder) if kind == "classes" else _plain(folder)


def _metadata(folder: Path, text_column: str, label_column: str | None) -> Source:
    rows = list(_rows(folder / METADATA))
    columns = {name for row in rows for name in row}
    for column, flag in (
        (text_column if text_column != "text" else None, "--text-column"),
        (label_column, "--label-column"),
    ):
        if column and column not in columns:
            raise ValueError(
                f"{flag} {column!r} is not in {METADATA}, which has {', '.join(sorted(columns))}; name one of these"
            )
    label_column = label_column or ("label" if "label" in columns else None)
    has_text = text_column in columns
    numbers, classes = _number_labels([row.get(label_column) for row in rows] if label_column else [])
    items: list[Item] = []
    bad: list[tuple[str, str]] = []
    seen: set[str] = set()
    for row in rows:
        name = str(row.get("file_name"))
        label = row.get(label_column) if label_column else None
        text = row.get(text_column) or ""
        if reason := _why_not(folder, name, seen) or _lacks(label_column, label, text):
            bad.append((reason, name))
            continue
        seen.add(name)
        extra = {k: v for k, v in row.items() if k not in ("file_name", text_column, label_column)}
        number = None if label is None else numbers[label]
        items.append(Item(name, name, _whole(folder / name), text if has_text else None, number, extra))
    return Source(_with_keys(items), bad, classes)


def _rows(path: Path) -> Iterator[dict]:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{path} line {number} is not JSON ({error}); mend or remove the line") from error
            if not isinstance(row, dict) or not isinstance(row.get("file_name"), str):
                raise ValueError(f"{path} line {number} names no picture; each line needs a text field file_name")
            yield row


def _why_not(folder: Path, name: str, seen: set[str]) -> str | None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        return "outside the folder"
    if name in seen:
        return "listed twice"
    return None if (folder / name).is_file() else "missing file"


def _lacks(label_column: str | None, label: object, text: object) -> str | None:
    if label_column and label is None:
        return "no label"
    return None if isinstance(text, str) else "caption is no text"


def _number_labels(values: list) -> tuple[dict, list[str] | None]:
    """Integers from 0 stay what they are; anything else is numbered in sorted order."""
    if odd := next((value for value in values if not isinstance(value, str | int | None)), None):
        raise ValueError(f"a label in {METADATA} is {odd!r}; labels are text or whole numbers")
    known = {value for value in values if value is not None}
    if len({str(value) for value in known}) != len(known):
        raise ValueError(f"labels in {METADATA} are text and numbers of the same name; make all of them text")
    if not known:
        return {}, None
    if all(type(value) is int and 0 <= value < MAX_CLASSES for value in known):
        return {value: value for value in known}, [str(n) for n in range(max(known) + 1)]
    ordered = sorted(known, key=lambda value: (str(type(value)), value))
    return {value: number for number, value in enumerate(ordered)}, [str(value) for value in ordered]


def _classes(folder: Path) -> Source:
    names = sorted(sub.name for sub in folder.iterdir() if sub.is_dir() and not sub.name.startswith("."))
    found = [(label, path) for label, name in enumerate(names) for path in sorted((folder / name).rglob("*"))]
    items = [
        Item(name := _name(path, folder), name, _whole(path), label=label) for label, path in found if _is_picture(path)
    ]
    return Source(_with_keys(items), [], names)


def _plain(folder: Path) -> Source:
    paths = sorted(path for path in folder.rglob("*") if _is_picture(path))
    sidecar = any(path.with_suffix(".txt").is_file() for path in paths)
    items = [
        Item(name := _name(path, folder), name, _whole(path), _sidecar(path) if sidecar else None) for path in paths
    ]
    return Source(_with_keys(items), [])


def _sidecar(path: Path) -> str:
    text = path.with_suffix(".txt")
    return text.read_bytes()[: MEMBER_LIMITS["txt"]].decode("utf-8", errors="replace").strip() if text.is_file() else ""


def _tars(folder: Path) -> Source:
    items: list[Item] = []
    bad: list[tuple[str, str]] = []
    for path in sorted(folder.rglob("*.tar")):
        shard = _name(path, folder)
        for sample in contents(path):
            key, members = printable(sample.key), sample.members
            image = next((members[ext] for ext in IMAGE_MEMBERS if ext in members), None)
            if image is None:
                bad.append(("no picture", f"{shard}/{key}"))
            else:
                old = {ext: span for ext, span in members.items() if ext in ("txt", "json", "cls")}
                items.append(Item(f"{key}.tar", f"{shard}/{key}", image, old=old))
    try:
        classes = load(folder).classes
    except ValueError:
        classes = None  # foreign tars: classes are called by their numbers
    return Source(_with_keys(items), bad, classes)


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def _name(path: Path, folder: Path) -> str:
    return printable(path.relative_to(folder).as_posix())


def printable(name: str) -> str:
    """A file name as text that any encoding can hold: bytes that are no UTF-8 are spelled out."""
    return name.encode("utf-8", "backslashreplace").decode()


def _whole(path: Path) -> Span:
    return Span(path, 0, path.stat().st_size)


def _with_keys(items: list[Item]) -> list[Item]:
    """The same items with keys made from their names: plain, without dots, unique, short."""
    used: set[str] = set()
    out = []
    for item in items:
        stem = str(PurePosixPath(item.key).with_suffix(""))
        key = re.sub(r"[^A-Za-z0-9_-]+", "_", stem).strip("_")
        if key != stem or len(key) > 80 or key in used:
            key = f"{key[:60]}-{hashlib.sha256(item.name.encode()).hexdigest()[:12]}"
        if key in used:
            raise ValueError(f"source: {item.name} occurs twice; remove one")
        used.add(key)
        out.append(replace(item, key=key))
    return out
