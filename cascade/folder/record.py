"""`folder.json`: which pictures a cascade was made from, and by which choices, so that the same command goes on."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data.files import replace_text
from stages.training.checkpoints import read_object

from .choices import Asked

RECORD = "folder.json"
FREE = ("overrides",)  # may differ when the command is given again: train.py checks them


def write_record(out: Path, listing: str, asked: Asked, shards: dict[str, str]) -> None:
    """Keep what must be the same when the command is given again. shards: their folder within `out`, by stage."""
    replace_text(
        out / RECORD, json.dumps({"listing": listing, "asked": asdict(asked), "shards": shards}, indent=2) + "\n"
    )


def read_record(out: Path, listing: str, asked: Asked, pictures: Path) -> dict[str, str] | None:
    """The shards by stage of a cascade that was begun in this folder; None for a new one.

    Raises ValueError if the pictures have changed since, or if the choices are others.
    """
    if not (out / RECORD).exists():
        return None
    content: dict[str, Any] = read_object(out / RECORD, "restore it, or choose another --out")
    if content.get("listing") != listing:
        raise ValueError(
            f"{pictures} has changed since {out} was begun (files, captions or folders); restore it, or choose another --out to "
            "begin anew with what is there now"
        )
    before, shards, now = content.get("asked"), content.get("shards"), json.loads(json.dumps(asdict(asked)))
    if not isinstance(before, dict) or not isinstance(shards, dict):
        raise ValueError(f"{out / RECORD}: no choices or no shards in it; restore it, or choose another --out")
    for key in now:
        if key not in FREE and before.get(key) != now[key]:
            raise ValueError(
                f"--{key} {_said(now[key])}: {out} was begun with {_said(before.get(key))}; give the same to go on, or choose "
                "another --out"
            )
    return shards


def _said(value: Any) -> str:
    return "none" if value in (None, "", 0) else str(value)
