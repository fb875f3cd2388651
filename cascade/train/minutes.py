"""Minutes of training as images: measured once, on this machine, and kept in the run directory, so that a resume has the same
length.
"""

import hashlib
import json
import math
import time
from dataclasses import asdict
from pathlib import Path

import torch

from data.files import make_folder, replace_text
from stages.config import StageConfig
from stages.training.checkpoints import read_object
from stages.training.length import FEWEST_UPDATES, Length, check_minutes, length_of
from stages.training.rundir import RunDir

from .costs import measure_rate

LENGTH = "length.json"
TRAINED = 0.9  # share of the time for updates; the rest goes into data, validation, grids and saves
POLL_S, PATIENCE_S = 0.2, 300.0


class TooShortError(ValueError):
    """The minutes do not reach the first save of a stage."""


def length_in(
    minutes: float, config: StageConfig, run: Path, *, micro: int, device: torch.device, rank: int = 0, world: int = 1
) -> Length:
    """The length of a run of so many minutes: as written in the run directory, else by the rate of real updates here.

    Rank 0 measures one process and counts `world` of them; others wait for what it writes. Raises ValueError for minutes that do
    not reach a first save, and for others than those that the run began with.
    """
    check_minutes(minutes)
    path, asked = run / LENGTH, _digest(minutes, config)
    if RunDir(run).folders() and path.exists():
        return read_length(path, minutes)
    if rank:
        return _awaited(path, asked)
    started = time.monotonic()
    rate = world * measure_rate(config, micro, device, least_s=min(3.0, 3 * minutes))[0]
    seconds = 60 * TRAINED * minutes - (time.monotonic() - started)
    check_seconds(seconds, rate, config.train.batch, minutes)
    length = length_of(seconds * rate, config.train.batch)
    make_folder(run)
    kept = {"minutes": minutes, "img_per_s": round(rate, 2), "length": asdict(length), "asked": asked}
    replace_text(path, json.dumps(kept, indent=2) + "\n")
    return length


def check_seconds(seconds: float, rate: float, batch: int, minutes: float) -> None:
    """Raise TooShortError if so many seconds at `rate` img/s do not reach a first save. minutes: as the user gave them."""
    updates = math.floor(max(seconds, 0) * rate / batch)
    if updates < FEWEST_UPDATES:
        needed = minutes + (FEWEST_UPDATES * batch / rate - seconds) / (60 * TRAINED)
        raise TooShortError(
            f"--minutes {minutes:g} is below the first save: {updates} of {FEWEST_UPDATES} updates at {rate:.3g} img/s; "
            f"give {math.ceil(10 * needed) / 10:g} or more"
        )


def read_length(path: Path, minutes: float) -> Length:
    """The length that a run began with. Raises ValueError if the file is damaged, or is of other minutes."""
    fix = f"restore it, or choose another --out than {path.parent.parent}"
    content = read_object(path, fix)
    try:
        length, begun = Length(**content["length"]), float(content["minutes"])
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{path}: no length in it; {fix}") from None
    if begun != minutes:
        raise ValueError(
            f"--minutes {minutes:g}: this run began with --minutes {begun:g}, {length.images:,} images; give the same, and "
            "--images for another end"
        )
    return length


def _awaited(path: Path, asked: str) -> Length:
    """What rank 0 writes for this run, not what an earlier attempt has left. Raises ValueError if it writes nothing."""
    started = time.monotonic()
    while time.monotonic() - started < PATIENCE_S:
        if path.exists():
            content = read_object(path, "restart the job")
            if content.get("asked") == asked:
                return Length(**content["length"])
        time.sleep(POLL_S)
    raise ValueError(f"{path}: rank 0 wrote no length within {PATIENCE_S:.0f} s; look at its log")


def _digest(minutes: float, config: StageConfig) -> str:
    """What an answer depends on, beside the machine: an attempt before the first checkpoint may have asked otherwise."""
    return hashlib.sha256(json.dumps([minutes, config.model_dump(mode="json")]).encode()).hexdigest()
