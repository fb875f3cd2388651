"""The run directory of one stage: resolved config, environment, metrics, TensorBoard events, grids, checkpoints, bundle."""

import fcntl
import json
import math
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

from data.files import make_folder, replace_text
from data.read.streams import largest_divisor

from ..build import build_stage
from ..config import StageConfig, TrainConfig
from ..texts import as_values
from .checkpoints import CHECKPOINT_NAME, Checkpoints, nimg_of, read_object, write_json

FREE_TO_CHANGE = {"controlnet.base"} | {  # where a control net's base lies; its sha256 says which it is
    f"train.{key}"
    for key in (
        "images", "workers", "save_every", "log_every", "grid_every", "keep", "compile", "micro_batch",
        "checkpoint_activations", "max_skipped", "snapshot_every", "val_images", "score_every", "score_images",
    )
}  # fmt: skip


class RunDir(Checkpoints):
    """Paths of a run directory, and what may change on resume: `sample.` keys and FREE_TO_CHANGE, others only if allowed."""

    @property
    def config(self) -> Path:
        """The resolved config with the data's fingerprint."""
        return self.path / "config.json"

    @property
    def metrics(self) -> Path:
        """The log, one JSON object a line."""
        return self.path / "metrics.jsonl"

    @property
    def samples(self) -> Path:
        """Folder of sample grids."""
        return self.path / "samples"

    @property
    def bundle(self) -> Path:
        """Folder of the bundle."""
        return self.path / "bundle"

    @property
    def snapshots(self) -> Path:
        """Folder of snapshots."""
        return self.path / "snapshots"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder for this training process, else raise ValueError. The kernel releases the lock when its holder dies."""
        make_folder(self.path)
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
        """Make the folder, or check that it belongs to this config and data. Raises ValueError with the differing keys.

        The content of an existing run stays unchanged until `begin`. resume: see `chosen`. allow: keys that may differ though
        they change the result, except those that change the shape of a weight.
        """
        make_folder(self.path)
        if not os.access(self.path, os.W_OK):
            raise ValueError(f"{self.path}: not writable; choose another --out")
        self.samples.mkdir(exist_ok=True)
        self.checkpoints.mkdir(exist_ok=True)
        for unfinished in self.checkpoints.glob("*.tmp"):
            shutil.rmtree(unfinished)
        checkpoint = self.chosen(resume)
        if checkpoint is None:
            self._write(config, data)
        elif self.config.exists():
            self._check(config, data, allow, nimg_of(checkpoint))

    def _check(self, config: StageConfig, data: str, allow: tuple[str, ...], nimg: int) -> None:
        old = self._recorded()
        old_config = read_config(old)
        if old_config is None:  # another version's config, compared as written
            new = written(config, data)
        else:
            old, new = old | record(old_config, old.get("data")), record(config, data)
        changed = {
            key.removeprefix("config."): pair
            for key, pair in differences(old, new).items()
            if key.removeprefix("config.") not in FREE_TO_CHANGE and not key.startswith("config.sample.")
        }
        message = "; ".join(f"{key} was {a!r}, is {b!r}" for key, (a, b) in changed.items() if key not in allow)
        if changed and (mismatch := misfits(old_config, config)):
            message = message or "; ".join(f"{key} was {a!r}, is {b!r}" for key, (a, b) in changed.items())
            raise ValueError(
                f"{self.path} holds a run of another config: {message}; its checkpoints do not fit ({mismatch}), which nothing can "
                "allow; restore it, or choose another --out"
            )
        if message:
            raise ValueError(
                f"{self.path} holds a run of another config: {message}; restore it, choose another --out, or allow it with "
                f"{' '.join(f'--allow-change {key}' for key in changed if key not in allow)}{unread(config.train, nimg)}"
            )

    def before(self) -> StageConfig | None:
        """The config recorded in the run; None without one, or if another version wrote it."""
        return read_config(self._recorded()) if self.config.exists() else None

    def _recorded(self) -> dict[str, Any]:
        """The content of config.json. Raises ValueError if it is damaged."""
        fix = "restore it, or remove it, and what this command says is taken for the run's config, unchecked"
        content = read_object(self.config, fix)
        if not isinstance(content.get("config"), dict):
            raise ValueError(f"{self.config}: no config in it; {fix}")
        return content

    def begin(self, config: StageConfig, data: str, nimg: int) -> None:
        """Make the run one of `config` at `nimg`: record that, and set aside files of later images as `.dropped`."""
        for folder in (self.checkpoints, self.snapshots, self.samples):
            for path in sorted(folder.glob("nimg-*")):
                match = CHECKPOINT_NAME.fullmatch(path.name.removesuffix(".png"))
                if match and int(match[1]) > nimg:
                    dropped = path.with_name(f"{path.name}.dropped")
                    shutil.rmtree(dropped, ignore_errors=True)
                    path.replace(dropped)
        self.cut_metrics(nimg)
        self._write(config, data)

    def _write(self, config: StageConfig, data: str) -> None:
        write_json(self.config, written(config, data))
        write_json(self.path / "environment.json", environment())

    def cut_metrics(self, nimg: int) -> None:
        """Drop log lines after nimg, so that a resumed run's log reads as if never interrupted."""
        if self.metrics.exists():
            lines = self.metrics.read_text().splitlines(keepends=True)
            remaining = [line for line in lines if line.endswith("\n") and self._nimg_in(line) <= nimg]
            replace_text(self.metrics, "".join(remaining))

    def _nimg_in(self, line: str) -> int:
        """The image at which a log line was written. Raises ValueError if it is no log line."""
        try:
            return int(json.loads(line)["nimg"])
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"{self.metrics}: {line[:40]!r} is no log line; remove that line") from None


def record(config: StageConfig, data: Any) -> dict[str, Any]:
    """Everything that identifies a run, with all keys. data: fingerprint of the shards."""
    return {"config": config.model_dump(mode="json"), "data": data}


def written(config: StageConfig, data: str) -> dict[str, Any]:
    """The content of config.json."""
    return {"config": as_values(config), "data": data}


def read_config(content: Any) -> StageConfig | None:
    """The config in the content of a config.json, or None if another version wrote it."""
    try:
        return TypeAdapter(StageConfig).validate_python(content["config"], strict=False)
    except (ValidationError, KeyError, TypeError):
        return None


def misfits(old: StageConfig | None, new: StageConfig) -> str:
    """Why a state of the old config does not fit the new: the first differing weight, or the optimizer; "" if it fits."""
    if old is None:
        return ""
    old_shapes, new_shapes = shapes(old), shapes(new)
    for name in sorted(old_shapes.keys() | new_shapes.keys()):
        if old_shapes.get(name) != new_shapes.get(name):
            return f"weight {name} has shape {old_shapes.get(name)} there, {new_shapes.get(name)} here"
    if old.train.optimizer != new.train.optimizer:
        return f"{old.train.optimizer} and {new.train.optimizer} remember different things"
    return ""


def unread(train: TrainConfig, nimg: int) -> str:
    """Additional advice if the streams cannot resume at image `nimg`; "" if they can."""
    divisor = largest_divisor(math.gcd(train.batch, nimg), train.streams)
    if nimg % train.streams == 0:
        return ""
    return (
        f" and set train.streams={divisor} ({nimg:,} images are seen, which {train.streams} streams cannot have given)"
    )


def shapes(config: StageConfig) -> dict[str, tuple[int, ...]]:
    """Shapes of all weights, by name."""
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in build_stage(config).state_dict().items()}


def differences(old: Any, new: Any, key: str = "") -> dict[str, tuple[Any, Any]]:
    """Dotted keys with different values, with both values."""
    if isinstance(old, dict) and isinstance(new, dict):
        changes: dict[str, tuple[Any, Any]] = {}
        for name in sorted(old.keys() | new.keys()):
            changes |= differences(old.get(name), new.get(name), f"{key}.{name}" if key else name)
        return changes
    return {} if old == new else {key: (old, new)}


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that influence a result."""
    from importlib.metadata import version

    names = ("torch", "torchvision", "timm", "webdataset", "deepspeed", "safetensors")
    return {"python": platform.python_version()} | {name: version(name) for name in names}


def environment() -> dict[str, Any]:
    """The content of environment.json: versions, command, device, threads, world size."""
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
    """Raise ValueError for a key of --allow-change that the config does not have."""
    for key in keys:
        if key != "data" and not has_key(config.model_dump(), key):
            raise ValueError(f"--allow-change {key}: the config has no such key; write one like train.lr, or data")


def has_key(values: object, dotted: str) -> bool:
    """Whether nested mappings contain `a.b.c`."""
    for part in dotted.split("."):
        if not isinstance(values, dict) or part not in values:
            return False
        values = values[part]
    return True
