"""The folder of pictures with its metadata.jsonl, as data.pack reads it: built beside its place, and moved there when it is whole.

An interrupted run leaves DST.part, in which every picture is whole; the same command goes on from there.
"""

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from data.cli import progress
from data.cpus import allowed
from data.disk import room_told
from data.files import held, make_folder, replace_bytes, replace_text, sync
from data.styles.captions import captions
from data.styles.concepts import Concept, concepts
from data.styles.drawings import Drawing, as_png, check_renderer, drawings, render
from data.styles.hidden import FINISH, PAIR, SEEN, half_of, hide, thing_of
from data.styles.packages import NOTICE, PACKAGES, fetch

TABLE, RECORD, LICENCES = "metadata.jsonl", "styles.json", "NOTICE"
MAX_SIZE = 2048
SPLITS = {"dev": "val", "test": "test"}  # by half

Rows = list[dict]


def make(dst: Path, size: int, packages: Path | None = None) -> bool:
    """Draw all emoji in all styles into `dst`; False if they are there already. `packages`: where tarballs are, or are kept."""
    if not 1 <= size <= MAX_SIZE:
        raise ValueError(f"--size {size} must be from 1 to {MAX_SIZE} px")
    with building(dst, {"size": size, "packages": [package.spec for package in PACKAGES]}) as part:
        if part is None:
            return False
        check_renderer()
        kept = packages or part / ".packages"
        fetch(kept)
        known = concepts(kept)
        drawn = {
            style: {code: drawing for code, drawing in sorted(found.items()) if code in known}
            for style, found in drawings(kept).items()
        }
        rows = table(known, drawn)
        _draw(part, [(row["file_name"], drawn[row["style"]][row.pop("code")]) for row in rows], size)
        _finish(part, rows)
        if packages is None:
            shutil.rmtree(kept)
    return True


def table(known: dict[str, Concept], drawn: dict[str, dict[str, Drawing]]) -> Rows:
    """One row for each drawing: what it shows, in which style, and to which split it belongs."""
    things = {code: thing_of(code, concept) for code, concept in known.items()}
    styles: dict[str, set[str]] = {}
    for style, found in drawn.items():
        for code in found:
            styles.setdefault(things[code], set()).add(style)
    hidden = {thing: hide(thing, of) for thing, of in styles.items()}
    rows = []
    for style, found in drawn.items():
        for code in found:
            concept, thing = known[code], things[code]
            part = hidden[thing].part_of(style)
            half = None if part == SEEN else half_of(thing)
            rows.append(
                {
                    "file_name": f"{style.replace(' ', '_')}/{code}.png", "text": concept.name, "label": style,
                    "split": SPLITS[half] if half else "train", "part": part, "half": half, "thing": thing, "style": style,
                    "group": concept.group, "subgroup": concept.subgroup, "name": concept.name,
                    "keywords": list(concept.keywords), "code": code,
                }
            )  # fmt: skip
    return rows


def caption(src: Path, dst: Path) -> bool:
    """Give the pictures of `src`, which `make` wrote, several captions in `dst`, by hard links; False if they are there already."""
    rows = read_table(src)
    with building(dst, {"captions of": _record(src)}) as part:
        if part is None:
            return False
        more = []
        for row in rows:
            name, suffix = os.path.splitext(row["file_name"])
            for number, text in enumerate(captions(row)):
                more.append(row | {"file_name": f"{name}.{number}{suffix}", "text": text})
                _link(src / row["file_name"], part / more[-1]["file_name"])
        _finish(part, more)
    return True


def read_table(folder: Path) -> Rows:
    """The rows of a folder that is complete."""
    with (folder / TABLE).open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def told(rows: Rows) -> Iterator[str]:
    """A line for each style: pictures and what is hidden. A picture with several captions counts once."""
    parts = {(row["style"], row["thing"], row["name"]): row["part"] for row in rows}
    counts = Counter((style, part) for (style, _, _), part in parts.items())
    for style in dict.fromkeys(style for style, _ in counts):
        seen, pairs, finishes = (counts[style, part] for part in (SEEN, PAIR, FINISH))
        yield f"{style}: {seen:,} to train on, {pairs} unseen pairs, {finishes} unseen finishes"


@contextmanager
def building(dst: Path, record: dict) -> Iterator[Path | None]:
    """A folder beside `dst` to build in, moved there after the block; None if `dst` was made with the settings `record` already.

    ValueError if `dst`, or what an interrupted run left, is something else.
    """
    dst = Path(os.path.abspath(dst))
    part = dst.with_name(f"{dst.name}.part")
    if dst.exists() and not (dst.is_dir() and not any(dst.iterdir())):
        if _record(dst) != record:
            raise ValueError(f"{dst} is there and holds something else; remove it, or choose another folder")
        yield None
        return
    make_folder(dst.parent)
    with held(dst.with_name(f"{dst.name}.lock"), str(dst)), room_told(dst.parent):
        if part.exists() and _record(part) != record:
            raise ValueError(f"{part} is there and is no beginning of this; remove it, or choose another folder")
        part.mkdir(exist_ok=True)
        replace_text(part / RECORD, json.dumps(record, indent=1) + "\n")
        yield part
        sync(part)
        part.replace(dst)
        sync(dst.parent)


def _record(folder: Path) -> dict | None:
    """The settings with which a folder was made; None if this command did not make it."""
    try:
        return json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


def _draw(part: Path, jobs: list[tuple[str, Drawing]], size: int) -> None:
    """Render what an interrupted run has not rendered."""
    for folder in {Path(name).parent for name, _ in jobs}:
        (part / folder).mkdir(exist_ok=True)
    missing = [job for job in jobs if not (part / job[0]).exists()]
    pool = ThreadPoolExecutor(allowed())
    try:
        for _ in progress(pool.map(partial(_draw_one, part, size), missing), len(missing), "drawing"):
            pass
    finally:
        pool.shutdown(cancel_futures=True)


def _draw_one(part: Path, size: int, job: tuple[str, Drawing]) -> None:
    name, drawing = job
    try:
        picture = as_png(render(drawing, size))
    except ValueError as error:
        raise ValueError(f"{name} cannot be rendered: {error}") from error
    replace_bytes(part / name, picture)


def _link(src: Path, dst: Path) -> None:
    """One file under a second name, or a copy where the file system has no such links."""
    dst.parent.mkdir(exist_ok=True)
    if dst.exists():
        return
    try:
        os.link(src, dst)
    except OSError:
        replace_bytes(dst, src.read_bytes())


def _finish(part: Path, rows: Rows) -> None:
    replace_text(part / LICENCES, NOTICE)
    replace_text(part / TABLE, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
