"""How a run is executed, and its options besides the config."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from data.read.mixture import MixtureLike

from ..config import StageConfig
from ..stage import Stage
from .deepspeed_engine import DeepSpeedEngine
from .deepspeed_settings import DeepSpeedSettings
from .engine import Engine, LocalEngine
from .signals import StopSignals


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """How a run is executed: engine (`local` or `deepspeed`), this process's rank among all, its device."""

    engine: str
    rank: int
    world: int
    device: torch.device
    deepspeed: DeepSpeedSettings = field(default_factory=DeepSpeedSettings)


Score = Callable[[Stage], dict[str, float]]
"""Scores of a stage's samples by name, for the log."""
Scoring = Callable[[StageConfig, MixtureLike], Score]
"""Makes a `Score` from the stage's config and the held-out pictures. Raises ValueError if they do not suffice."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of a run besides its config.

    resume, allow: see RunDir.open. lower: bundle of the stage below, for validation; val_data: held-out pictures, by default the
    val split of the training data. wandb: project. norms: log norms of weights and activations with every grid. checked:
    called once on rank 0 when the first update has succeeded, hence all user input is valid. signals: handlers already installed.
    scoring: makes what scores the averaged stage every `train.score_every` images; it draws nothing from the training's randomness.
    """

    resume: str = "auto"
    allow: tuple[str, ...] = ()
    lower: Path | None = None
    wandb: str = ""
    val_data: MixtureLike | None = None
    norms: bool = False
    checked: Callable[[], None] = field(default=lambda: None)
    signals: StopSignals | None = None
    scoring: Scoring | None = None


def make_engine(stage: Stage, config: StageConfig, runtime: Runtime, micro: int) -> Engine:
    """Make the engine of a run."""
    if runtime.engine == "deepspeed":
        return DeepSpeedEngine(stage, config.train, runtime.device, micro_batch=micro, settings=runtime.deepspeed)
    return LocalEngine(stage, config.train, runtime.device)


def compiles(runtime: Runtime, wanted: bool | str) -> bool:
    """Whether to compile: a CPU needs a C++ compiler, and ZeRO 3 replaces weights at run time, so it runs eagerly."""
    if wanted == "auto":
        wanted = runtime.device.type == "cuda"
    compiler = any(shutil.which(os.environ.get("CXX", name)) for name in ("c++", "g++", "clang++"))
    return bool(wanted) and runtime.deepspeed.zero < 3 and (runtime.device.type != "cpu" or compiler)
