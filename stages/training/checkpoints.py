"""Checkpoints of a run: folders `checkpoints/nimg-XXXXXXXXXX` with the engine's state, the averages and a manifest of hashes.

A checkpoint is written under a temporary name and renamed when complete, so the newest with a valid manifest is always a state that
existed. All files are safetensors or JSON: reading a checkpoint executes nothing.
"""

import json
import re
import shutil
import sys
from dataclasses import dataclass
from functools import cached_property
from math import isfinite
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from data.files import file_sha256, replace_text, sync
from data.line import say

from .engine import State

STATE = "state.safetensors"
CHECKPOINT_NAME = re.compile(r"nimg-(\d{10})")


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints in a run directory. A checkpoint is whole if its files match its manifest."""

    path: Path

    @cached_property
    def checkpoints(self) -> Path:
        """The folder of all checkpoints."""
        return self.path / "checkpoints"

    def folders(self) -> list[Path]:
        """All checkpoints, whole or not, oldest first. Empty for a new run."""
        return sorted(path for path in self.checkpoints.glob("nimg-*") if CHECKPOINT_NAME.fullmatch(path.name))

    def latest(self) -> Path | None:
        """The newest whole checkpoint, or None for a new run. Raises ValueError if there are some but none is whole."""
        folders = self.folders()
        for folder in reversed(folders):
            problem = check_manifest(folder)
            if problem is None:
                return folder
            say(f"{folder}: {problem}; trying an older checkpoint", sys.stderr)
        if folders:
            raise ValueError(f"{self.checkpoints}: no checkpoint is whole; restore one, or choose another --out")
        return None

    def chosen(self, resume: str = "auto") -> Path | None:
        """The checkpoint to resume from: "auto" is the newest whole one, or None for a new run; "latest", "best" or a name must
        exist and be whole. Raises ValueError."""
        if resume == "auto":
            return self.latest()
        available = [folder.name for folder in self.folders()]
        names = {"latest": available[-1:], "best": [p.name for p in [self.best()] if p]}.get(resume, [resume])
        if not names or names[0] not in available:
            raise ValueError(
                f"--resume {resume}: no such checkpoint in {self.checkpoints}; there are "
                f"{', '.join(available) or 'none'}, latest and best"
            )
        problem = check_manifest(self.checkpoints / names[0])
        if problem:
            raise ValueError(f"--resume {resume}: {self.checkpoints / names[0]}: {problem}; take another one")
        return self.checkpoints / names[0]

    def best(self) -> Path | None:
        """The checkpoint with the lowest validation loss in its manifest, or None."""
        candidates = [
            (manifest["val_loss"], folder)
            for folder in self.folders()
            if (manifest := read_manifest(folder)).get("val_loss") is not None
        ]
        return min(candidates)[1] if candidates else None

    def draft(self, nimg: int) -> Path:
        """Make an empty folder to write a checkpoint into."""
        folder = self.checkpoints / f"nimg-{nimg:010d}.tmp"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def commit(self, draft: Path, nimg: int, keep: int, val_loss: float | None = None) -> None:
        """Turn a draft into the newest checkpoint and remove all but the last `keep` and the best."""
        val_loss = val_loss if val_loss is not None and isfinite(val_loss) else None
        files = sorted(path for path in draft.rglob("*") if path.is_file())
        listed = {str(p.relative_to(draft)): {"bytes": p.stat().st_size, "sha256": file_sha256(p)} for p in files}
        write_json(
            draft / "manifest.json",
            {"nimg": nimg, "val_loss": val_loss, "files": listed},
        )
        for path in (*files, draft / "manifest.json", draft):
            sync(path)
        final = draft.with_suffix("")
        shutil.rmtree(final, ignore_errors=True)
        draft.rename(final)
        sync(self.checkpoints)
        best = self.best()
        for folder in sorted(self.checkpoints.glob("nimg-*[0-9]"))[:-keep]:
            if folder != best:
                shutil.rmtree(folder, ignore_errors=True)


def save_state(state: State, folder: Path) -> None:
    """Write an engine's state as one safetensors file."""
    save_file(state, folder / STATE)


def load_state(checkpoint: Path) -> State:
    """Read the engine state of a checkpoint, written by any engine, world size and ZeRO stage. Raises ValueError."""
    path = checkpoint / STATE
    if not path.is_file():
        raise ValueError(f"{checkpoint}: no {STATE}; it was written by an older version, choose another --out")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path}: not a safetensors file ({error}); resume from another checkpoint") from None


def nimg_of(checkpoint: Path) -> int:
    """Images seen, from the name of a checkpoint."""
    match = CHECKPOINT_NAME.fullmatch(checkpoint.name)
    assert match
    return int(match[1])


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read manifest.json, or {} if it is unreadable."""
    try:
        content = json.loads((folder / "manifest.json").read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def check_manifest(folder: Path) -> str | None:
    """What is wrong with a checkpoint, in words, or None if it is whole."""
    try:
        files: dict[str, Any] = json.loads((folder / "manifest.json").read_text())["files"]
        entries = [(name, entry["bytes"], entry["sha256"]) for name, entry in files.items()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"manifest unreadable ({type(error).__name__})"
    for name, num_bytes, sha256 in entries:
        path = folder / name
        if not path.is_file() or path.stat().st_size != num_bytes:
            return f"{name} is missing or cut short"
        if file_sha256(path) != sha256:
            return f"{name} has another sha256"
    return None


def read_object(path: Path, fix: str) -> dict[str, Any]:
    """Read the JSON object at `path`. Raises OSError, or ValueError that names the file and suggests `fix`."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not readable as JSON ({error}); {fix}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: a JSON object is needed, this is a {type(content).__name__}; {fix}")
    return content


def write_json(path: Path, value: Any) -> None:
    """Replace the file at `path` by a value as indented JSON."""
    replace_text(path, json.dumps(value, indent=2) + "\n")
