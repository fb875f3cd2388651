"""What a person sees of a run: progress bar, JSON lines, TensorBoard curves, optionally Weights & Biases. Only on rank 0."""

import json
import math
import sys
import time
import uuid
from collections import deque
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm import tqdm

from data.line import say

from ..tools.cost import mfu, peak_flops
from .engine import Update
from .rundir import RunDir

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

WAIT_SHOWN = 0.03  # share of the time spent waiting for data above which the progress line says so

Facts = dict[str, float | None]
"""A log line: numbers by name, None if unknown or not finite."""


class Watch:
    """Collects updates between log lines. Close it to finish the bar and flush the curves.

    images: length of the run; world: number of processes, one a device; train_flops: FLOP to train on one image, for MFU (0: no
    MFU); floor: the linear floor, for every line; wandb: project to log to, with `settings` as the run's config. Raises ValueError
    if wandb is wanted but unavailable.
    """

    def __init__(
        self,
        run: RunDir,
        *,
        nimg: int,
        images: int,
        name: str,
        world: int = 1,
        train_flops: int = 0,
        wandb: str = "",
        settings: Mapping[str, Any] = {},
        floor: float | None = None,
    ):
        self.wandb = Wandb(run, wandb, name, settings) if wandb else None
        self.floor = {} if floor is None else {"linear_floor": floor}
        self.run, self.images, self.name, self.world, self.train_flops = run, images, name, world, train_flops
        self.began = nimg
        self.bar = tqdm(
            total=images, initial=nimg, desc=name, unit="img", dynamic_ncols=True, smoothing=0.05, disable=None
        )
        self.losses: list[float] = []
        self.norms: list[float] = []
        self.skipped = 0
        self.recent: deque[float] = deque(maxlen=50)
        self.shown: dict[str, str] = {}
        self.logged_at, self.logged_nimg = time.monotonic(), nimg
        self.waited_s = 0.0

    @cached_property
    def curves(self) -> "SummaryWriter":
        """The TensorBoard writer, opened with the first log line so that a failed resume leaves old curves untouched."""
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(self.run.path / "tensorboard"), purge_step=self.began)

    def waited(self, seconds: float) -> None:
        """Add time spent waiting for data."""
        self.waited_s += seconds

    def update(self, update: Update, *, batch: int) -> None:
        """Add an update; a skipped one is counted and does not enter the means."""
        if update.applied:
            self.losses.append(update.loss)
            self.norms.append(update.grad_norm)
            self.recent.append(update.loss)
        else:
            self.skipped += 1
        self.bar.update(batch)
        if self.recent:
            self.bar.set_postfix({"loss": f"{mean(self.recent):.4f}"} | self.shown, refresh=False)

    def log(self, nimg: int, *, lr: float, device: torch.device, facts: Mapping[str, float] = {}) -> None:
        """Write one line of metrics.jsonl, one point of each curve, and one plain line without a terminal.

        facts: further numbers for all of them. Rates cover the time since the last line.
        """
        line = self._line(nimg, lr, device) | {key: finite(value) for key, value in facts.items()}
        with self.run.metrics.open("a") as lines:
            lines.write(json.dumps(line, allow_nan=False) + "\n")
        for key, value in line.items():
            if key != "nimg" and value is not None:
                self.curves.add_scalar(key, value, nimg)
        if self.wandb:
            self.wandb.log(line)
        self.shown = speed(line)
        if self.bar.disable:
            say(f"{self.name}: {told(line, self.images)}", sys.stderr)
        self.losses, self.norms, self.skipped, self.waited_s = [], [], 0, 0.0
        self.logged_at, self.logged_nimg = time.monotonic(), nimg

    def _line(self, nimg: int, lr: float, device: torch.device) -> Facts:
        elapsed_s = max(time.monotonic() - self.logged_at, 1e-9)
        rate = (nimg - self.logged_nimg) / elapsed_s
        peak = peak_flops(device) if self.train_flops else None
        utilization = {"mfu": mfu(rate / self.world, self.train_flops, peak)} if peak else {}
        return {
            "nimg": nimg,
            "loss": mean(self.losses),
            **self.floor,
            "grad_norm": mean(self.norms),
            "lr": lr,
            "skipped": self.skipped,
            "img_per_s": rate,
            "img_per_s_per_device": rate / self.world,
            **utilization,
            "wait": min(self.waited_s / elapsed_s, 1.0),
            "memory_mb": memory_mb(device),
            "eta_s": max(self.images - nimg, 0) / rate if rate > 0 else None,
        }

    def grid(self, picture: Tensor, nimg: int) -> None:
        """Log a uint8 (c, h, w) picture to TensorBoard and Weights & Biases."""
        self.curves.add_image("grid", picture, nimg)
        if self.wandb:
            self.wandb.grid(picture, nimg)

    def close(self) -> None:
        """Finish the bar and flush the curves."""
        self.bar.close()
        if "curves" in vars(self):
            self.curves.close()
        if self.wandb:
            self.wandb.close()


def check_wandb() -> None:
    """Raise ValueError if the package is missing."""
    try:
        import wandb  # noqa: F401
    except ImportError:
        raise ValueError(
            "--wandb needs the package wandb; install it with: uv pip install wandb, or pip install wandb"
        ) from None


class Wandb:
    """A run of Weights & Biases, continued after a resume: its id is kept in the run directory. Curves are over images seen."""

    def __init__(self, run: RunDir, project: str, name: str, settings: Mapping[str, Any]):
        check_wandb()
        import wandb

        self.wandb, id_file = wandb, run.path / "wandb_id"
        if not id_file.exists():
            id_file.write_text(uuid.uuid4().hex[:8])
        try:
            self.run = wandb.init(
                project=project,
                name=name,
                id=id_file.read_text().strip(),
                resume="allow",
                dir=str(run.path),
                config=dict(settings),
            )
        except wandb.Error as error:
            raise ValueError(
                f"--wandb {project}: {error}; log in with `wandb login`, or set WANDB_MODE=offline"
            ) from None
        self.run.define_metric("nimg")
        self.run.define_metric("*", step_metric="nimg")

    def log(self, line: Facts) -> None:
        """Log the known numbers of a line."""
        self.run.log({key: value for key, value in line.items() if value is not None})

    def grid(self, picture: Tensor, nimg: int) -> None:
        """Log a uint8 (c, h, w) picture."""
        self.run.log({"nimg": nimg, "grid": self.wandb.Image(picture.permute(1, 2, 0).cpu().numpy())})

    def close(self) -> None:
        """Finish the run."""
        self.run.finish()


def speed(line: Facts) -> dict[str, str]:
    """Extra fields of the bar: MFU if known, the share of time waiting for data if above WAIT_SHOWN."""
    figures = {}
    if line.get("mfu") is not None:
        figures["MFU"] = f"{100 * (line['mfu'] or 0):.1f} %"
    if (line["wait"] or 0) > WAIT_SHOWN:
        figures["waiting"] = f"{100 * (line['wait'] or 0):.0f} %"
    return figures


def told(line: Facts, images: int) -> str:
    """Format a log line for people."""
    parts = [f"{line['nimg']:,} of {images:,} img"]
    parts += [
        f"{label} {line[key]:.4f}"
        for label, key in (("loss", "loss"), ("val", "val_loss"), ("linear floor", "linear_floor"))
        if line.get(key) is not None
    ]
    parts += [f"{line['skipped']:.0f} skipped"] if line["skipped"] else []
    parts += [f"{line['img_per_s']:.0f} img/s", *(f"{label} {text}" for label, text in speed(line).items())]
    if line["eta_s"] is not None:
        parts.append(f"{duration(line['eta_s'])} left")
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """Format a duration with one decimal in the largest fitting unit."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"


def mean(values: Any) -> float | None:
    """Mean of the finite values, or None if there are none."""
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else None


def finite(value: float) -> float | None:
    """The value, or None if it is not finite."""
    return value if math.isfinite(value) else None


def memory_mb(device: torch.device) -> int:
    """Peak memory in MiB: of the GPU, or of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) >> 20
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
