"""What a person sees of a run: a progress bar, JSON lines, TensorBoard curves, Weights & Biases if asked. Only rank 0 watches."""

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

from ..tools.cost import mfu, peak_flops
from .engine import Update
from .rundir import RunDir

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

WAIT_SHOWN = 0.03  # share of the time spent waiting for data above which the progress line says so

Facts = dict[str, float | None]
"""A log line: numbers by name, None for what is not known or not finite."""


class Watch:
    """Collects updates between log lines. Close it to finish the bar and flush the curves.

    images: length of the run; world: number of processes, one a device; train_flops: FLOP of an image's training, for MFU (0:
    none is shown); wandb: project to log to, with `settings` as the run's config. Raises ValueError where wandb is asked for and
    cannot be had.
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
    ):
        self.wandb = Wandb(run, wandb, name, settings) if wandb else None
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
        """Opened with the first line: until then a run that goes on has left what was there as it was."""
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(self.run.path / "tensorboard"), purge_step=self.began)

    def waited(self, seconds: float) -> None:
        """Time spent waiting for data."""
        self.waited_s += seconds

    def update(self, update: Update, *, batch: int) -> None:
        """Takes in an update; one that was skipped is counted and leaves the means alone."""
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
        """One line of metrics.jsonl, one point of each curve, and one plain line where there is no terminal.

        facts: more numbers for all of them. Times are those since the last line.
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
            print(f"{self.name}: {told(line, self.images)}", file=sys.stderr, flush=True)
        self.losses, self.norms, self.skipped, self.waited_s = [], [], 0, 0.0
        self.logged_at, self.logged_nimg = time.monotonic(), nimg

    def _line(self, nimg: int, lr: float, device: torch.device) -> Facts:
        elapsed = max(time.monotonic() - self.logged_at, 1e-9)
        rate = (nimg - self.logged_nimg) / elapsed
        peak = peak_flops(device) if self.train_flops else None
        known = {"mfu": mfu(rate / self.world, self.train_flops, peak)} if peak else {}
        return {
            "nimg": nimg,
            "loss": mean(self.losses),
            "grad_norm": mean(self.norms),
            "lr": lr,
            "skipped": self.skipped,
            "img_per_s": rate,
            "img_per_s_per_device": rate / self.world,
            **known,
            "wait": min(self.waited_s / elapsed, 1.0),
            "memory_mb": memory_mb(device),
            "eta_s": max(self.images - nimg, 0) / rate if rate > 0 else None,
        }

    def grid(self, picture: Tensor, nimg: int) -> None:
        """A uint8 (c, h, w) picture for TensorBoard and Weights & Biases."""
        self.curves.add_image("grid", picture, nimg)
        if self.wandb:
            self.wandb.grid(picture, nimg)

    def close(self) -> None:
        self.bar.close()
        if "curves" in vars(self):
            self.curves.close()
        if self.wandb:
            self.wandb.close()


def check_wandb() -> None:
    """Raises ValueError where the package is missing."""
    try:
        import wandb  # noqa: F401
    except ImportError:
        raise ValueError(
            "--wandb needs the package wandb; install it with: uv pip install wandb, or pip install wandb"
        ) from None


class Wandb:
    """A run of Weights & Biases, the same one after a resume: its id stands in the run directory. Curves go over images seen."""

    def __init__(self, run: RunDir, project: str, name: str, settings: Mapping[str, Any]):
        check_wandb()
        import wandb

        self.wandb, kept = wandb, run.path / "wandb_id"
        if not kept.exists():
            kept.write_text(uuid.uuid4().hex[:8])
        try:
            self.run = wandb.init(
                project=project,
                name=name,
                id=kept.read_text().strip(),
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
        self.run.log({key: value for key, value in line.items() if value is not None})

    def grid(self, picture: Tensor, nimg: int) -> None:
        self.run.log({"nimg": nimg, "grid": self.wandb.Image(picture.permute(1, 2, 0).cpu().numpy())})

    def close(self) -> None:
        self.run.finish()


def speed(line: Facts) -> dict[str, str]:
    """What the bar says besides loss, images a second and the time left: MFU where known, waiting where it is worth a word."""
    shown = {}
    if line.get("mfu") is not None:
        shown["MFU"] = f"{100 * (line['mfu'] or 0):.1f} %"
    if (line["wait"] or 0) > WAIT_SHOWN:
        shown["waiting"] = f"{100 * (line['wait'] or 0):.0f} %"
    return shown


def told(line: Facts, images: int) -> str:
    """A log line in words."""
    parts = [f"{line['nimg']:,} of {images:,} img"]
    parts += [
        f"{what} {line[key]:.4f}" for what, key in (("loss", "loss"), ("val", "val_loss")) if line.get(key) is not None
    ]
    parts += [f"{line['skipped']:.0f} skipped"] if line["skipped"] else []
    parts += [f"{line['img_per_s']:.0f} img/s", *(f"{what} {amount}" for what, amount in speed(line).items())]
    if line["eta_s"] is not None:
        parts.append(f"{duration(line['eta_s'])} left")
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """Two figures and a unit that a person would choose."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"


def mean(values: Any) -> float | None:
    """Of what is finite; None where there is nothing such."""
    kept = [value for value in values if math.isfinite(value)]
    return sum(kept) / len(kept) if kept else None


def finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def memory_mb(device: torch.device) -> int:
    """Peak memory: of the device, or of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) >> 20
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
