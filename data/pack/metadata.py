"""Sources whose pictures are named by a table: metadata.jsonl or metadata.csv, beside or above them."""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from data.captions import check_caption, encoding_of
from data.decode import MAX_CLASSES
from data.index.items import Choices, Item, Named, Source, printable, whole
from data.index.splits import split_named
from data.index.tree import Tree, suffix_of
from data.pack.kinds import check_columns
from data.pack.parts import Parts, find_parts

TABLES = ("metadata.jsonl", "metadata.csv")
PARQUET = "metadata.parquet"
LONGEST_CELL = 16 << 20  # bounds a quote that is never closed; a caption that is too long is only counted as bad
TEXT_COLUMNS = ("text", "caption")  # the first that exists, if none is named


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Names of the columns with captions, labels and splits; None without one."""

    text: str | None
    label: str | None
    split: str | None


def tables(tree: Tree) -> list[Path]:
    """The tables in use: the one at the top, else all those further down."""
    paths = [path for path in tree.files if path.name in TABLES]
    folders = [path.parent for path in paths]
    if duplicate := next((folder for folder in folders if folders.count(folder) > 1), None):
        raise ValueError(f"source {tree.folder / duplicate} has both {' and '.join(TABLES)}; remove one of them")
    for path in tree.files:
        if path.name == PARQUET and path.parent not in folders:
            raise ValueError(_convert(tree.folder / path))
    return [path for path in paths if path.parent == Path()] or paths


def _convert(path: Path) -> str:
    output = str(path.with_suffix(".jsonl"))
    line = f"import pandas; pandas.read_parquet({str(path)!r}).to_json({output!r}, orient='records', lines=True)"
    return f'{path} is not read, only {" and ".join(TABLES)} are; convert it with: python -c "{line}"'


def list_metadata(tree: Tree, choices: Choices) -> Source:
    """List the pictures that the tables name; others are counted as not read."""
    if not (used_tables := tables(tree)):
        raise ValueError(f"source {tree.folder} has no {' and no '.join(TABLES)}; leave out --source metadata")
    rows = [row for table in used_tables for row in _rows(tree.folder, table)]
    columns = _columns(rows, choices, " and ".join(sorted({table.name for table in used_tables})))
    drawn = choices.caption_columns
    if columns.label and all(table.suffix == ".csv" for table in used_tables):
        _numbers_of_text(rows, columns.label)
    numbers, classes = _number_labels([row.get(columns.label) for row in rows]) if columns.label else ({}, None)
    pictures = set(tree.pictures)
    parts = find_parts(tree, choices) if columns.split is None else Parts()
    items: list[Item] = []
    bad: list[Named] = []
    seen_names: set[str] = set()
    for row in rows:
        name = row["file_name"]
        label = row.get(columns.label) if columns.label else None
        text = (row.get(columns.text) or "") if columns.text else None
        split = _split(row, columns, parts)
        reason = _why_not(tree.folder, name, seen_names) or _lacks(columns, label, text, split)
        seen_names.add(name)
        if reason or split is None:
            bad.append((reason or "no split", printable(name)))
            continue
        extra = {k: v for k, v in row.items() if k not in ("file_name", columns.text, columns.label)}
        items.append(
            Item(
                name,
                printable(name),
                whole(tree.folder / name),
                text if text is None else text.strip(),
                None if label is None else numbers[label],
                extra,
                split=split,
                columns={name: row.get(name) for name in drawn} if drawn else None,
            )
        )
    unread = [
        ("pictures that metadata does not name" if path in pictures else suffix_of(path), printable(path.as_posix()))
        for path in tree.files
        if path.as_posix() not in seen_names and path not in used_tables
    ]
    return Source(items=items, bad=bad, classes=classes, unread=unread, read_as=_told(used_tables, columns, drawn))


def _told(used: list[Path], columns: Columns, drawn: tuple[str, ...]) -> str:
    files = used[0].name if len(used) == 1 else f"{len(used)} files {used[0].name}"
    captions = ("captions", columns.text) if not drawn else ("several captions", " and ".join(drawn))
    columns_used = (captions, ("labels", columns.label), ("splits", columns.split))
    description = ", ".join(f"{content} from column {name}" for content, name in columns_used if name)
    return f"metadata ({files}), {description or 'no captions'}"


def _rows(folder: Path, table: Path) -> Iterator[dict]:
    path = folder / table
    with path.open("rb") as file:
        encoding = encoding_of(file.read(4))
    try:
        with path.open(encoding=encoding, newline="") as lines:
            for row in _csv_rows(path, lines) if table.suffix == ".csv" else _json_rows(path, lines):
                yield row | {"file_name": _joined(table.parent, row["file_name"])}
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is neither UTF-8 nor UTF-16 with its mark (byte {error.object[error.start]:#x}); save it as UTF-8"
        ) from error


def _joined(folder: Path, name: str) -> str:
    """A name within the source, without "./"; a name that leads out keeps the parts that show it."""
    path = PurePosixPath(name)
    return str(path) if path.is_absolute() else str(PurePosixPath(folder.as_posix()) / path)


def _json_rows(path: Path, lines) -> Iterator[dict]:
    for line_number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} line {line_number} is not JSON ({error}); mend or remove the line") from error
        if not isinstance(row, dict) or not isinstance(row.get("file_name"), str):
            raise ValueError(f"{path} line {line_number} names no picture; each line needs a text field file_name")
        yield row


def _csv_rows(path: Path, lines) -> Iterator[dict]:
    """Rows in the form of those of JSON lines; an empty cell is no value."""
    csv.field_size_limit(LONGEST_CELL)
    table = csv.DictReader(lines, strict=True)
    try:
        if "file_name" not in (names := table.fieldnames or []):
            raise ValueError(f"{path} has columns {', '.join(names)}; it needs file_name, and commas between columns")
        for row in table:
            if None in row or not row["file_name"] or None in row.values():
                raise ValueError(f"{path} line {table.line_num} has not {len(names)} cells or no file_name; mend it")
            yield {name: cell if cell != "" else None for name, cell in row.items()}
    except csv.Error as error:
        raise ValueError(f"{path} is no CSV after line {table.line_num} ({error}); mend it") from error


def _columns(rows: list[dict], choices: Choices, where: str) -> Columns:
    names = {name for row in rows for name in row}
    for column, flag in ((choices.text_column, "--text-column"), (choices.label_column, "--label-column")):
        if column and column not in names:
            raise ValueError(
                f"{flag} {column!r} is not in {where}, which has {', '.join(sorted(names))}; name one of these"
            )
    check_columns(choices.caption_columns, names, where)
    found = next((name for name in TEXT_COLUMNS if name in names), None)
    return Columns(
        text=None if choices.caption_columns else choices.text_column or found,
        label=choices.label_column or ("label" if "label" in names else None),
        split="split" if "split" in names and choices.splits else None,
    )


def _split(row: dict, columns: Columns, parts: Parts) -> str | None:
    if columns.split is None:
        return parts.split(Path(row["file_name"]))
    value = row.get(columns.split)
    if value in (None, ""):
        return None
    if (split := split_named(str(value))) is None:
        raise ValueError(
            f"column split has {value!r} for {row['file_name']}; it may hold train, val (validation, dev) and test, "
            "or add --no-splits if it means something else"
        )
    return split


def _why_not(folder: Path, name: str, seen: set[str]) -> str | None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        return "outside the folder"
    if name in seen:
        return "listed twice"
    return None if (folder / name).is_file() else "missing file"


def _lacks(columns: Columns, label: object, text: object, split: str | None) -> str | None:
    if columns.label and label is None:
        return "no label"
    if split is None:
        return "no split"
    if text is None:
        return None
    if not isinstance(text, str):
        return "caption is no text"
    try:
        check_caption(text)
    except ValueError as error:
        return str(error).partition(": ")[0]
    return None


def _numbers_of_text(rows: list[dict], column: str) -> None:
    """Turn labels of a text table into whole numbers, if all of them look like one."""
    values = [row[column] for row in rows if row.get(column) is not None]
    if all(value.isascii() and value.isdecimal() and str(int(value)) == value for value in values):
        for row in rows:
            row[column] = None if row.get(column) is None else int(row[column])


def _number_labels(values: list) -> tuple[dict, list[str] | None]:
    """Number the labels: integers from 0 stay as they are, anything else is numbered in sorted order. Also their names."""
    if invalid := next((value for value in values if not isinstance(value, str | int | None)), None):
        raise ValueError(f"a label in metadata is {invalid!r}; labels are text or whole numbers")
    labels = {value for value in values if value is not None}
    if len({str(value) for value in labels}) != len(labels):
        raise ValueError("labels in metadata are text and numbers of the same name; make all of them text")
    if not labels:
        return {}, None
    if all(type(value) is int and 0 <= value < MAX_CLASSES for value in labels):
        return {value: value for value in labels}, [str(n) for n in range(max(labels) + 1)]
    ordered = sorted(labels, key=lambda value: (str(type(value)), value))
    return {value: index for index, value in enumerate(ordered)}, [str(value) for value in ordered]
