"""The run directory of one stage: resolved config, environment, metrics, TensorBoard events, grids, checkpoints, bundle.

A checkpoint is a folder `checkpoints/nimg-XXXXXXXXXX` with a manifest of sizes and hashes. It is written under another name and
renamed when whole, so the newest one with a whole manifest is always a state that existed.
"""

import json
import os
import platform
import re
import shutil
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from ..bundle import file_sha256, sync
from ..config import StageConfig

NAME = re.compile(r"nimg-(\d{10})")
FREE_TO_CHANGE = {
    f"train.{key}" for key in ("images", "workers", "save_every", "log_every", "grid_every", "keep", "compile")
}
FREE_TO_CHANGE |= {"train.micro_batch"}


@dataclass(frozen=True)
class RunDir:
    """Paths and the rules of what may be written when. `sample.` keys and FREE_TO_CHANGE may differ on resume, others not."""

    path: Path

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def samples(self) -> Path:
        return self.path / "samples"

    @property
    def bundle(self) -> Path:
        return self.path / "bundle"

    @cached_property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def open(self, config: StageConfig, data: str) -> None:
        """Makes the folder, or checks that it belongs to this config and data. Raises ValueError with the differing keys."""
        self.path.mkdir(parents=True, exist_ok=True)
        if not os.access(self.path, os.W_OK):
            raise ValueError(f"{self.path}: not writable; choose another --out")
        self.samples.mkdir(exist_ok=True)
        self.checkpoints.mkdir(exist_ok=True)
        new = {"config": config.model_dump(mode="json"), "data": data}
        path = self.path / "config.json"
        if path.exists() and self.latest() is not None:
            changed = {
                key: pair
                for key, pair in differences(json.loads(path.read_text()), new).items()
                if key.removeprefix("config.") not in FREE_TO_CHANGE and not key.startswith("config.sample.")
            }
            if changed:
                told = "; ".join(
                    f"{key.removeprefix('config.')} was {a!r}, is {b!r}" for key, (a, b) in changed.items()
                )
                raise ValueError(
                    f"{self.path} holds a run of another config: {told}; restore it, or choose another --out"
                )
        for unfinished in self.checkpoints.glob("*.tmp"):
            shutil.rmtree(unfinished)
        write_json(path, new)
        write_json(self.path / "environment.json", environment())

    def latest(self) -> Path | None:
        """The newest whole checkpoint."""
        folders = sorted((p for p in self.checkpoints.glob("nimg-*") if NAME.fullmatch(p.name)), reverse=True)
        for folder in folders:
            problem = check_manifest(folder)
            if problem is None:
                return folder
            print(f"{folder}: {problem}; trying an older checkpoint", file=sys.stderr)
        if folders:
            raise ValueError(f"{self.checkpoints}: no checkpoint is whole; restore one, or choose another --out")
        return None

    def draft(self, nimg: int) -> Path:
        """An empty folder to write a checkpoint into."""
        folder = self.checkpoints / f"nimg-{nimg:010d}.tmp"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def commit(self, draft: Path, nimg: int, keep: int) -> None:
        """Makes a draft the newest checkpoint and removes all but the last `keep`."""
        files = sorted(path for path in draft.rglob("*") if path.is_file())
        listed = {str(p.relative_to(draft)): {"bytes": p.stat().st_size, "sha256": file_sha256(p)} for p in files}
        write_json(draft / "manifest.json", {"nimg": nimg, "files": listed})
        for path in (*files, draft / "manifest.json", draft):
            sync(path)
        final = draft.with_suffix("")
        shutil.rmtree(final, ignore_errors=True)
        draft.rename(final)
        sync(self.checkpoints)
        for old in sorted(self.checkpoints.glob("nimg-*[0-9]"))[:-keep]:
            shutil.rmtree(old, ignore_errors=True)

    def cut_metrics(self, nimg: int) -> None:
        """Drops log lines beyond the loaded position, so that a resumed run's log reads as if never interrupted."""
        if self.metrics.exists():
            lines = self.metrics.read_text().splitlines(keepends=True)
            kept = [line for line in lines if line.endswith("\n") and json.loads(line)["nimg"] <= nimg]
            replace_text(self.metrics, "".join(kept))


def nimg_of(checkpoint: Path) -> int:
    match = NAME.fullmatch(checkpoint.name)
    assert match
    return int(match[1])


def check_manifest(folder: Path) -> str | None:
    """What is wrong with a checkpoint, or None."""
    try:
        files: dict[str, Any] = json.loads((folder / "manifest.json").read_text())["files"]
        wanted = [(name, facts["bytes"], facts["sha256"]) for name, facts in files.items()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"manifest unreadable ({type(error).__name__})"
    for name, num_bytes, sha256 in wanted:
        path = folder / name
        if not path.is_file() or path.stat().st_size != num_bytes:
            return f"{name} is missing or cut short"
        if file_sha256(path) != sha256:
            return f"{name} has another sha256"
    return None


def differences(old: Any, new: Any, key: str = "") -> dict[str, tuple[Any, Any]]:
    """Dotted keys whose values differ, with both values."""
    if isinstance(old, dict) and isinstance(new, dict):
        found: dict[str, tuple[Any, Any]] = {}
        for name in sorted(old.keys() | new.keys()):
            found |= differences(old.get(name), new.get(name), f"{key}.{name}" if key else name)
        return found
    return {} if old == new else {key: (old, new)}


def versions() -> dict[str, str]:
    """Versions that explain a result."""
    from importlib.metadata import version

    names = ("torch", "torchvision", "timm", "webdataset", "deepspeed", "safetensors")
    return {"python": platform.python_version()} | {name: version(name) for name in names}


def environment() -> dict[str, Any]:
    return {
        "versions": versions(),
        "command": sys.argv,
        "device": torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "world": int(os.environ.get("WORLD_SIZE", "1")),
    }


def write_json(path: Path, value: Any) -> None:
    replace_text(path, json.dumps(value, indent=2) + "\n")


def replace_text(path: Path, text: str) -> None:
    """Writes beside and renames: a reader sees the old text or the new, never half; several processes may write at once."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_text(text)
    part.replace(path)
