"""Sources: a folder with metadata, one folder for each class, a plain folder, or webdataset tars.

The kind is detected from the content; where it could be two it is refused, with the options that decide. A source is
listed as its `Item`s, the files that are named but cannot be used, and those that are not read. Nothing is decoded
here.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from data.index import INDEX_NAME
from data.index.items import Choices, Item, Named, Source, finished, printable, whole
from data.index.tree import PICTURES, Tree, suffix_of
from data.pack.beside import Beside, find_beside
from data.pack.kinds import check_columns
from data.pack.metadata import TABLES, list_metadata, tables
from data.pack.parts import Parts, find_parts
from data.pack.tars import list_tars, shards_of

NUMBERED = re.compile(r"\d{5,}")  # folders of img2dataset (00000, ...), which are no classes


def find_kind(tree: Tree, choices: Choices) -> str:
    """Detect which of SOURCES a folder is, from its content; ValueError where it could be two."""
    if choices.source:
        return choices.source
    tars, metadata, pictures = shards_of(tree), tables(tree), tree.pictures
    if tars and (pictures or metadata):
        raise ValueError(
            f"source {tree.folder} has tars ({tars[0]}) and pictures ({(pictures or metadata)[0]}); say which: "
            f"--source tars, or --source {'metadata' if metadata else 'plain'}"
        )
    if tars or metadata:
        return "tars" if tars else "metadata"
    if pictures:
        return _kind_of_folders(tree, find_parts(tree, choices))
    suffixes = ", ".join(sorted({suffix_of(path) for path in tree.files})) or "nothing"
    raise ValueError(
        f"source {tree.folder} has no pictures ({', '.join(PICTURES)}), no {' or '.join(TABLES)} and no .tar, "
        f"but {suffixes}; name a folder that has"
    )


def list_source(tree: Tree, kind: str, choices: Choices) -> Source:
    """List everything to pack from a folder; read_as and unread cover all of its files."""
    if choices.label_column and kind != "metadata":
        raise ValueError(f"--label-column names a column of metadata, source {tree.folder} is {kind}; leave it out")
    source = SOURCES[kind](tree, choices)
    splits = {item.split for item in source.items}
    read_as = f"{source.read_as}, {len(splits)} splits" if len(splits) > 1 else source.read_as
    not_files: list[Named] = [("no file", _name(path)) for path in tree.odd if path.suffix.lower() in PICTURES]
    hidden: list[Named] = [("hidden folders", _name(path)) for path in tree.hidden]
    return replace(
        source, items=finished(source.items), read_as=read_as, bad=source.bad + not_files, unread=source.unread + hidden
    )


def _kind_of_folders(tree: Tree, parts: Parts) -> str:
    inner = {parts.inner(path): path for path in tree.pictures}
    by_folder = {path.parts[0]: original for path, original in inner.items() if len(path.parts) > 1}
    top_level = [original for path, original in inner.items() if len(path.parts) == 1]
    if by_folder and top_level:
        raise ValueError(
            f"source {tree.folder}: {next(iter(by_folder.values()))} lies in a folder that could be a class, {top_level[0]} in "
            "none; say what is meant: --source plain (no classes), or --source classes (leaves such pictures out)"
        )
    if len(by_folder) < 2:
        return "plain"
    if not all(NUMBERED.fullmatch(name) for name in by_folder):
        return "classes"
    if any(find_beside(tree, None).files.values()):
        return "plain"
    raise ValueError(
        f"source {tree.folder}: folders {', '.join(list(by_folder)[:3])} may be classes or only numbered; "
        "say what is meant: --source classes or --source plain"
    )


def _pictures(tree: Tree, choices: Choices, kind: str) -> Source:
    """List pictures with what lies beside them; for `classes` the first folder (below a split) is the label."""
    parts = find_parts(tree, choices)
    beside = find_beside(tree, choices.text_column, choices.caption_columns)
    pictures = tree.pictures
    class_numbers: dict[str, int] = {}
    if kind == "classes":
        pictures = [path for path in pictures if len(parts.inner(path).parts) > 1]
        class_numbers = {name: k for k, name in enumerate(sorted({parts.inner(path).parts[0] for path in pictures}))}
        if not pictures:
            hint = "add --no-splits if its folders are classes" if parts.folders else "leave out --source classes"
            raise ValueError(f"source {tree.folder} has no picture in a class folder; {hint}")
    is_crawled = bool(pictures) and all(NUMBERED.fullmatch(parts.inner(path).parts[0]) for path in pictures)
    items, bad, names = [], [], {suffix[1:] for paths in beside.files.values() for suffix in paths} - {"json"}
    for path in pictures:
        name = _name(path)
        try:
            told = beside.told(path) if beside.columns else None
            text = beside.caption(path) if beside.has_captions and told is None else None
        except (ValueError, OSError) as error:
            bad.append((str(error).partition(": ")[0], name))
            continue
        facts = beside.facts(path) if is_crawled else None
        items.append(
            Item(
                name,
                name,
                whole(tree.folder / path),
                text,
                class_numbers.get(parts.inner(path).parts[0]),
                old={"json": facts} if facts else {},
                split=parts.split(path),
                columns=None if told is None else {name: told.get(name) for name in beside.columns},
            )
        )
        names |= set(told or ())
    check_columns(beside.columns, names | beside.own, "what lies beside the pictures")
    read_paths = beside.read | set(pictures)
    if is_crawled:
        read_paths |= {paths[".json"] for paths in beside.files.values() if ".json" in paths}
    read_as = _told(kind, beside, class_numbers)
    return Source(
        items=items,
        bad=bad,
        unread=_unread(tree, read_paths),
        classes=[printable(name) for name in class_numbers] or None,
        read_as=read_as,
    )


def _told(kind: str, beside: Beside, numbers: dict[str, int]) -> str:
    examples = ", ".join([printable(name) for name in numbers][:3])
    classes = f"{len(numbers)} classes ({examples}{', ...' if len(numbers) > 3 else ''})" if numbers else kind
    if beside.columns:
        return f"{classes} with several captions, {' and '.join(beside.columns)} beside the pictures"
    if beside.column:
        return f"{classes} with captions in the .json beside the pictures"
    return f"{classes} with captions beside the pictures" if beside.has_captions else f"{classes} without captions"


def _unread(tree: Tree, read: set[Path]) -> list[Named]:
    return [(suffix_of(path), _name(path)) for path in tree.files if path not in read]


def _name(path: Path) -> str:
    return printable(path.as_posix())


def _list_tars(tree: Tree, choices: Choices) -> Source:
    source = list_tars(tree, choices)
    return replace(source, unread=source.unread + _unread(tree, {*shards_of(tree), Path(INDEX_NAME)}))


SOURCES: dict[str, Callable[[Tree, Choices], Source]] = {
    "metadata": list_metadata,
    "classes": partial(_pictures, kind="classes"),
    "plain": partial(_pictures, kind="plain"),
    "tars": _list_tars,
}
"""Kinds of source by their value of `--source`; each lists everything to pack from a folder. Add a kind as a line here."""
