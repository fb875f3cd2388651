"""Sources that are tars, webdataset or img2dataset shards, with members in any order.

A sample is one picture with its caption (`.txt`, or a column of `.json`), its class (`.cls`), facts (`.json`) and the member that
`--maps` names. Other members are counted by their extension.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

from data.index import load
from data.index.items import DAMAGED, Choices, Item, Named, Source, printable
from data.index.splits import split_of
from data.index.tree import Tree
from data.pack.kinds import check_columns
from data.tar import (
    DOT_IN_KEY,
    NO_PICTURE,
    PACK_MEMBERS,
    Contents,
    ShardError,
    check_shards,
    contents,
    dotted_pictures,
    is_compressed,
    is_tar,
)

TXT = "txt"  # the member that is a caption, and its column among several


def shards_of(tree: Tree) -> list[Path]:
    """The tars below a folder, including compressed ones, which cannot be read."""
    return [path for path in tree.files if is_tar(path.name) or is_compressed(path.name)]


def list_tars(tree: Tree, choices: Choices) -> Source:
    """List everything to pack from a folder of tars; ValueError names all that cannot be read, unless these may be left out."""
    try:
        index = load(tree.folder)
    except ValueError:
        index = None  # foreign tars: classes are named by their numbers, splits follow from the names of shards
    splits = {shard.name: shard.split for shard in index.shards} if index else {}
    shards, faults = shards_of(tree), []
    listing = _Listing(choices)
    for path in shards:
        name = printable(path.as_posix())
        split = (splits.get(path.as_posix()) or split_of(name)) if choices.splits else "train"
        try:
            samples = contents(tree.folder / path, dotted=choices.dotted_keys)
        except ShardError as error:
            faults.append(error)
            listing.bad.append((DAMAGED, f"{name} ({error.why})"))
            continue
        for sample in samples:
            listing.add(sample, name, split)
    if not choices.skip_damaged:
        check_shards(faults, len(shards), skip="--skip-damaged")
    listing.drop_unlabelled()
    read_as = f"webdataset tars ({len(shards) - len(faults)}{' with their index' if index else ''})"
    if choices.text_column:
        _check_column(tree.folder, choices.text_column, listing.items)
        read_as += f" with captions in .json, column {choices.text_column}"
    if choices.caption_columns:
        names = _names(listing.items, set(choices.caption_columns))
        check_columns(choices.caption_columns, names, f"the members of {tree.folder}")
        read_as += f" with several captions, {' and '.join(choices.caption_columns)} of their members"
    return Source(
        items=listing.items,
        bad=listing.bad,
        unread=listing.unread,
        classes=index.classes if index else None,
        read_as=read_as,
    )


@dataclass
class _Listing:
    """Items, bad samples and unread members collected so far."""

    choices: Choices
    items: list[Item] = field(default_factory=list)
    bad: list[Named] = field(default_factory=list)
    unread: list[Named] = field(default_factory=list)

    def add(self, sample: Contents, shard: str, split: str) -> None:
        """Add a sample to the items, or to the bad ones with the fault."""
        key, column = printable(sample.key), self.choices.text_column
        name = f"{shard}/{key}"
        map_member = self.choices.map_member
        image = next((ext for ext in PACK_MEMBERS if ext in sample.members and ext != map_member), None)
        columns = self.choices.caption_columns
        annotations = {"json", "cls"} if column or (columns and TXT not in columns) else {TXT, "json", "cls"}
        read_exts = annotations if image else {*annotations, *PACK_MEMBERS}
        large = [(ext, reason) for ext, reason in sample.others.items() if reason and ext in read_exts]
        if large:
            ext, reason = large[0]
            self.bad.append(("caption too long" if ext == "txt" else f".{ext} member too large", f"{name} ({reason})"))
        elif image:
            spans = {ext: span for ext, span in sample.members.items() if ext in annotations}
            map_ = sample.members.get(map_member)
            self.items.append(
                Item(f"{key}.tar", name, sample.members[image], old=spans, text_column=column, split=split, map=map_)
            )
        elif dotted := dotted_pictures(sample.members):
            self.bad += [(DOT_IN_KEY, f"{name}.{ext}") for ext in dotted]
        else:
            self.bad.append((NO_PICTURE, f"{name} (only {sample.extensions})"))
        if image:
            read = {image, *annotations, map_member}
            unread_exts = [ext for ext in (*sample.members, *sample.others) if ext not in read]
            self.unread += [(f".{ext} in tars", f"{name}.{ext}") for ext in unread_exts]

    def drop_unlabelled(self) -> None:
        """If some items have a class, move those without to the bad ones."""
        if any("cls" in item.old for item in self.items):
            self.bad += [("no label", item.name) for item in self.items if "cls" not in item.old]
            self.items = [item for item in self.items if "cls" in item.old]


def _names(items: list[Item], wanted: set[str]) -> set[str]:
    """The columns of `.json` members, and txt for a `.txt`, up to the first item with which all that are wanted have been seen."""
    columns: set[str] = set()
    for item in items:
        columns |= {TXT} & item.old.keys()
        if "json" in item.old:
            try:
                facts = json.loads(item.old["json"].read())
            except (ValueError, RecursionError):
                continue  # counted as bad when it is packed
            columns |= facts.keys() if isinstance(facts, dict) else set()
        if wanted <= columns:
            break
    return columns


def _check_column(folder: Path, column: str, items: list[Item]) -> None:
    """Raise ValueError if no `.json` member has the column; usually the first has."""
    columns = _names(items, {column})
    if column in columns:
        return
    if not columns:
        raise ValueError(f"--text-column {column!r}: source {folder} has no .json members with columns; leave it out")
    names = ", ".join(sorted(columns)[:20])
    raise ValueError(f"--text-column {column!r} is in no .json member, which have {names}; name one of these")
