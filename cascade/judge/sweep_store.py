"""What a sweep has found so far, in a file beside the cascade, written whole after each trial: an interrupt loses one trial."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from cascade.judge.estimate import Estimate
from cascade.judge.sweep_rule import Trial
from cascade.judge.sweep_setup import Setup
from data.files import replace_bytes, replace_text
from stages.training.checkpoints import read_object

FIX = "remove it, and the sweep begins anew"


class Store:
    """The trials of a sweep by stage, and the pictures that each stage painted for the next, in files beside.

    identity: what the numbers depend on; a file of another identity is refused with what differs.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any]):
        self.path, self.identity = path, json.loads(json.dumps(identity))
        self._content: dict[str, Any] = {"version": 1, "identity": self.identity, "stages": {}, "written": None}
        if path.exists():
            self._content = self._read()

    def _read(self) -> dict[str, Any]:
        content = read_object(self.path, FIX)
        if content.get("version") != 1 or not isinstance(content.get("stages"), dict):
            raise ValueError(f"{self.path}: this is no file of a sweep of this version; {FIX}")
        try:
            for stage in content["stages"].values():
                for found in (*stage["trials"], *stage["bounds"].values()):
                    _scores(found["scores"]), float(found["seconds"])
                for found in stage["trials"]:
                    Setup.of_json(found["setup"]), int(found["calls"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{self.path}: damaged ({type(error).__name__}: {error}); {FIX}") from None
        old = content.get("identity")
        if isinstance(old, dict):
            old.setdefault("precision", "fp32")  # of files that do not tell it
        if content.get("written") == self.identity["cascade"]:
            return content  # the sweep wrote what the cascade is now
        for name, value in self.identity.items():
            if not isinstance(old, dict) or old.get(name) != value:
                was, now = (old or {}).get(name) if isinstance(old, dict) else None, value
                raise ValueError(f"{self.path}: this sweep was begun with another {name}{_differs(was, now)}; {FIX}")
        return content

    @property
    def is_written(self) -> bool:
        """Whether the cascade is as this sweep left it."""
        return self._content["written"] == self.identity["cascade"]

    def trial(self, stage: str, setup: Setup, step: int) -> Trial | None:
        """A trial that was made before."""
        for found in self._stage(stage)["trials"]:
            if found["setup"] == setup.as_json():
                return Trial(
                    setup=setup,
                    step=step,
                    calls=found["calls"],
                    seconds=found["seconds"],
                    scores=_scores(found["scores"]),
                )
        return None

    def add(self, stage: str, trial: Trial) -> None:
        """Store a trial."""
        values = {"setup": trial.setup.as_json(), "calls": trial.calls, "seconds": trial.seconds}
        self._stage(stage)["trials"].append(values | {"scores": _values(trial.scores)})
        self._write()

    def bound(self, stage: str, name: str) -> tuple[dict[str, Estimate], float] | None:
        """Scores of a bound that were computed before, and the seconds that took."""
        found = self._stage(stage)["bounds"].get(name)
        return found and (_scores(found["scores"]), found["seconds"])

    def add_bound(self, stage: str, name: str, scores: Mapping[str, Estimate], seconds: float) -> None:
        """Store the scores of a bound."""
        self._stage(stage)["bounds"][name] = {"scores": _values(scores), "seconds": seconds}
        self._write()

    def painted(self, stage: str, setup: Setup) -> Tensor | None:
        """The pictures of a stage that were stored for the next, if they are of this setup."""
        try:
            pictures = load(self._pictures(stage).read_bytes())[self._key(setup)]
        except (OSError, SafetensorError, KeyError):
            return None
        return pictures

    def keep(self, stage: str, setup: Setup, pictures: Tensor) -> None:
        """Store the pictures of a stage."""
        replace_bytes(self._pictures(stage), save({self._key(setup): pictures.contiguous()}))

    def finish(self, written: Mapping[str, Any]) -> None:
        """Note what the cascade is now, and remove the pictures."""
        self._content["written"] = json.loads(json.dumps(written))
        self._write()
        self.drop()

    def drop(self) -> None:
        """Remove the pictures."""
        for path in self.path.parent.glob(f"{self.path.stem}.*.safetensors"):
            path.unlink(missing_ok=True)

    def _pictures(self, stage: str) -> Path:
        return self.path.with_name(f"{self.path.stem}.{stage}.safetensors")

    def _key(self, setup: Setup) -> str:
        return json.dumps([self.identity, setup.as_json()], sort_keys=True)

    def _stage(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self._content["stages"].setdefault(name, {"trials": [], "bounds": {}})
        return found

    def _write(self) -> None:
        replace_text(self.path, json.dumps(self._content) + "\n")


def _values(scores: Mapping[str, Estimate]) -> dict[str, Any]:
    return {
        name: {"value": each.value, "left_out": [side.tolist() for side in each.left_out]}
        for name, each in scores.items()
    }


def _scores(values: Mapping[str, Any]) -> dict[str, Estimate]:
    return {
        name: Estimate(
            value=each["value"], left_out=tuple(torch.tensor(side, dtype=torch.float64) for side in each["left_out"])
        )
        for name, each in values.items()
    }


def _differs(was: Any, now: Any) -> str:
    """Both values of something short; of mappings the first key that differs."""
    if isinstance(was, dict) and isinstance(now, dict):
        key = next(key for key in (*now, *was) if was.get(key) != now.get(key))
        return f": {key}{_differs(was.get(key), now.get(key))}"
    texts = [str(each) for each in (was, now)]
    return f" (it was {texts[0][:40]}, is {texts[1][:40]})"
