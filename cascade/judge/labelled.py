"""Pictures with what is said of each: caption, style, thing, group, whether it is hidden from training, and of which half.

They come from a folder of pictures named by a metadata.jsonl or metadata.csv, from packed shards (columns in their .json
members, classes in .cls), or from a folder that sample.py wrote (the request in the text of each PNG).
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from cascade.output.pictures import METADATA_KEY, read_metadata
from data.alpha import to_pixels
from data.batch import to_float, to_uint8
from data.decode import PACK_FORMATS, WHITE, Color, decode_image, decode_label
from data.index.items import Choices, Item, Source, whole
from data.index.tree import Tree
from data.index.tree import look as files_below
from data.pack.metadata import tables
from data.pack.sources import find_kind, list_source
from data.resize import downsample

TRAIN = "train"
FEW = 0.05  # of the pictures, that may lack a style or a thing


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Names of the columns that tell a picture's style, thing and group."""

    style: str = "style"
    thing: str = "thing"
    group: str = "group"


@dataclass(frozen=True, kw_only=True)
class Row:
    """What is said of a picture; "" where nothing is. split: TRAIN, or how it is hidden; half: dev or test, of hidden ones."""

    name: str
    text: str = ""
    style: str = ""
    thing: str = ""
    group: str = ""
    split: str = TRAIN
    half: str = ""


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """Pictures uint8 (n, 3, size, size) on `background`, with a row each. broken: files left out, and why."""

    name: str
    pictures: Tensor
    rows: tuple[Row, ...]
    broken: tuple[str, ...]


def load_labelled(
    folder: Path,
    *,
    size: int,
    background: Color = WHITE,
    columns: Columns | None = None,
    note: Callable[[str], None] = lambda _: None,
) -> Labelled:
    """Load all pictures of a folder, shrunk to size x size px by THE downsample; transparency is laid on `background`.

    Pictures that cannot be read, are smaller or not square are named and left out. Raises ValueError, OSError.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; name one with pictures and their metadata.jsonl, or packed shards")
    pictures, rows, broken = [], [], []
    for item, row in listed(files_below(folder), columns or Columns()):
        try:
            content = item.image.read()
            pictures.append(_shrunk(decode_image(content, background=background, formats=PACK_FORMATS), size))
            rows.append(row)
        except ValueError as error:
            broken.append(f"{row.name}: {error}")
            note(f"{folder}: {broken[-1]}; it is left out")
    if not pictures:
        raise ValueError(f"{folder}: no picture can be used; {broken[0] if broken else 'it has none'}")
    return Labelled(name=str(folder), pictures=torch.cat(pictures), rows=tuple(rows), broken=tuple(broken))


def listed(tree: Tree, columns: Columns, *, strict: bool = True) -> Iterator[tuple[Item, Row]]:
    """The pictures below a folder with what is said of each. strict: whether a picture of which nothing is said is an error.

    Without metadata, captions are those of sample.py; if not strict, also of the text files beside pictures. Raises ValueError.
    """
    texts = not strict and any(path.suffix == ".txt" for path in tree.files)
    if tree.pictures and not tables(tree) and not texts:
        return _of_sample(tree, strict)
    kind = find_kind(tree, Choices())
    source = list_source(tree, kind, Choices(splits=kind == "tars"))
    return _of_source(source, columns)


def _of_source(source: Source, columns: Columns) -> Iterator[tuple[Item, Row]]:
    for item in source.items:
        facts = _facts(item)
        text = item.text if item.text is not None else _text(item, facts)
        split = str(facts.get("split") or item.split)
        label = _label(item, source.classes)
        told = {name: facts.get(column) for name, column in vars(columns).items()}
        yield (
            item,
            Row(
                name=item.name,
                text=text.strip(),
                style=_word(told["style"]) or label,
                thing=_word(told["thing"]),
                group=_word(told["group"]),
                split=split,
                half=_word(facts.get("half")),
            ),
        )


def _facts(item: Item) -> dict[str, Any]:
    if "json" not in item.old:
        return item.extra
    try:
        facts = json.loads(item.old["json"].read())
    except (ValueError, RecursionError):
        return item.extra
    return facts if isinstance(facts, dict) else {}


def _text(item: Item, facts: dict[str, Any]) -> str:
    if "txt" in item.old:
        return item.old["txt"].read().decode("utf-8", "replace")
    return _asked(facts)[0]


def _label(item: Item, classes: list[str] | None) -> str:
    """The name of an item's class; its number where the source names none."""
    number = decode_label(item.old["cls"].read()) if "cls" in item.old else item.label
    if number is None:
        return ""
    return classes[number] if classes and number < len(classes) else str(number)


def _of_sample(tree: Tree, strict: bool) -> Iterator[tuple[Item, Row]]:
    """The pictures of sample.py, which say in their own text what was asked for."""
    for path in tree.pictures:
        name = path.as_posix()
        try:
            text, style = _asked(read_metadata(tree.folder / path))
        except ValueError:
            if not strict:
                continue
            raise ValueError(
                f"{tree.folder / path} does not say what it should show (no text {METADATA_KEY!r} in it) and the folder has no "
                "metadata.jsonl; write one with file_name, text and style"
            ) from None
        yield Item(name, name, whole(tree.folder / path)), Row(name=name, text=text, style=style)


def _asked(metadata: dict[str, Any]) -> tuple[str, str]:
    """Prompt and label number of a picture's request."""
    found = []
    for field in ("prompts", "labels"):
        values = metadata.get(field)
        found.append(str(values[0]) if isinstance(values, list) and len(values) == 1 else "")
    return found[0].strip(), found[1]


def _word(value: object) -> str:
    return str(value).strip() if isinstance(value, str | int) else ""


def _shrunk(image: Image.Image, size: int) -> Tensor:
    if image.width != image.height or image.width < size:
        raise ValueError(f"{image.width} x {image.height} px; a square of at least {size} px is needed")
    return to_uint8(downsample(to_float(torch.from_numpy(to_pixels(image))[None]), (size, size)))


def with_said(data: Labelled, fields: tuple[str, ...], columns: Columns, note: Callable[[str], None]) -> Labelled:
    """The pictures whose rows say all of `fields` of Row. Raises ValueError if more than FEW of them do not."""
    lacking = {
        k: field for k, row in enumerate(data.rows) for field in reversed(fields) if not getattr(row, field)
    }  # of several, the first
    if not lacking:
        return data
    first, field = next(iter(lacking.items()))
    column = getattr(columns, field)
    if len(lacking) > FEW * len(data.rows):
        raise ValueError(
            f"{data.name}: {len(lacking):,} of {len(data.rows):,} pictures, {data.rows[first].name} first, have no {field} in "
            f"column {column!r}; name the column with --{field}-column"
        )
    note(f"{data.name}: {len(lacking)} pictures, {data.rows[first].name} first, have no {field}; they are left out")
    kept = [k for k in range(len(data.rows)) if k not in lacking]
    broken = tuple(f"{data.rows[k].name}: no {what}" for k, what in lacking.items())
    return Labelled(
        name=data.name,
        pictures=data.pictures[kept],
        rows=tuple(data.rows[k] for k in kept),
        broken=data.broken + broken,
    )
