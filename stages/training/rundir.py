"""The run directory of one stage: resolved config, environment, metrics, TensorBoard events, grids, checkpoints, bundle."""

import fcntl
import json
import os
import platform
import shutil
import socket
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError

from ..config import StageConfig
from .checkpoints import Checkpoints, replace_text, write_json

FREE_TO_CHANGE = {
    f"train.{key}"
    for key in (
        "images", "workers", "save_every", "log_every", "grid_every", "keep", "compile", "micro_batch",
        "checkpoint_activations", "max_skipped", "snapshot_every", "val_images",
    )
}  # fmt: skip


class RunDir(Checkpoints):
    """Paths and the rules of what may be written when. `sample.` keys and FREE_TO_CHANGE may differ on resume, others not."""

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def samples(self) -> Path:
        return self.path / "samples"

    @property
    def bundle(self) -> Path:
        return self.path / "bundle"

    @property
    def snapshots(self) -> Path:
        return self.path / "snapshots"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """One training process at a time in a folder. The kernel gives the lock back when its holder dies, however it dies."""
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / "run.lock").open("a+") as file:
            try:
                fcntl.lockf(
                    file, fcntl.LOCK_EX | fcntl.LOCK_NB
                )  # a record lock: forked loader processes do not inherit it
            except BlockingIOError:
                file.seek(0)
                raise ValueError(
                    f"{self.path}: another run works there ({file.read().strip()}); stop it, or choose another --out"
                ) from None
            file.truncate(0)
            file.write(json.dumps({"host": socket.gethostname(), "pid": os.getpid()}) + "\n")
            file.flush()
            yield

    def open(self, config: StageConfig, data: str, *, resume: str = "auto", allow: tuple[str, ...] = ()) -> None:
        """Makes the folder, or checks that it belongs to this config and data. Raises ValueError with the differing keys.

        resume: "auto" goes on from the newest checkpoint or starts, "latest", "best" or a checkpoint's name must be there; newer
        ones are set aside. allow: keys that may differ though they change the result.
        """
        new = {"config": config.model_dump(mode="json"), "data": data}
        self.path.mkdir(parents=True, exist_ok=True)
        if not os.access(self.path, os.W_OK):
            raise ValueError(f"{self.path}: not writable; choose another --out")
        self.samples.mkdir(exist_ok=True)
        self.checkpoints.mkdir(exist_ok=True)
        path = self.path / "config.json"
        if path.exists() and self.latest() is not None:
            changed = {
                key: pair
                for key, pair in differences(as_meant(json.loads(path.read_text())), new).items()
                if key.removeprefix("config.") not in FREE_TO_CHANGE | set(allow)
                and not key.startswith("config.sample.")
            }
            if changed:
                told = "; ".join(
                    f"{key.removeprefix('config.')} was {a!r}, is {b!r}" for key, (a, b) in changed.items()
                )
                raise ValueError(
                    f"{self.path} holds a run of another config: {told}; restore it, choose another --out, or allow it with "
                    f"--allow-change {next(iter(changed)).removeprefix('config.')}"
                )
        if resume != "auto":
            self.go_back(resume)
        for unfinished in self.checkpoints.glob("*.tmp"):
            shutil.rmtree(unfinished)
        write_json(path, new)
        write_json(self.path / "environment.json", environment())

    def cut_metrics(self, nimg: int) -> None:
        """Drops log lines beyond the loaded position, so that a resumed run's log reads as if never interrupted."""
        if self.metrics.exists():
            lines = self.metrics.read_text().splitlines(keepends=True)
            kept = [line for line in lines if line.endswith("\n") and json.loads(line)["nimg"] <= nimg]
            replace_text(self.metrics, "".join(kept))


def as_meant(stored: Any) -> Any:
    """A config.json with the keys that its version did not have yet, at the values that mean what it did."""
    try:
        config: StageConfig = TypeAdapter(StageConfig).validate_python(stored["config"])
    except (ValidationError, KeyError, TypeError):
        return stored
    return stored | {"config": config.model_dump(mode="json")}


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


def check_allowed(config: StageConfig, keys: Iterable[str]) -> None:
    """Raises ValueError for a key to be allowed that is not there."""
    for key in keys:
        if key != "data" and not has_key(config.model_dump(), key):
            raise ValueError(f"--allow-change {key}: the config has no such key; write one like train.lr, or data")


def has_key(values: object, dotted: str) -> bool:
    """Whether nested mappings have something at `a.b.c`."""
    for part in dotted.split("."):
        if not isinstance(values, dict) or part not in values:
            return False
        values = values[part]
    return True
