"""What a person sees of a run: a progress bar, JSON lines, TensorBoard curves. Only rank 0 watches."""

import json
import sys
import time
from collections import deque
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from .engine import Update
from .rundir import RunDir


class Watch:
    """Collects updates between log lines. Close it to finish the bar and flush the curves."""

    def __init__(self, run: RunDir, *, nimg: int, images: int, name: str):
        from torch.utils.tensorboard import SummaryWriter

        self.run, self.images, self.name = run, images, name
        self.curves = SummaryWriter(str(run.path / "tensorboard"), purge_step=nimg)
        self.lines = run.metrics.open("a")
        self.bar = tqdm(
            total=images, initial=nimg, desc=name, unit="img", dynamic_ncols=True, smoothing=0.05, disable=None
        )
        self.losses: list[float] = []
        self.norms: list[float] = []
        self.recent: deque[float] = deque(maxlen=50)
        self.logged_at, self.logged_nimg = time.monotonic(), nimg
        self.waited_s = 0.0

    def waited(self, seconds: float) -> None:
        """Time spent waiting for data."""
        self.waited_s += seconds

    def update(self, update: Update, *, batch: int) -> None:
        self.losses.append(update.loss)
        self.norms.append(update.grad_norm)
        self.recent.append(update.loss)
        self.bar.update(batch)
        self.bar.set_postfix(loss=f"{sum(self.recent) / len(self.recent):.4f}", refresh=False)

    def log(self, nimg: int, *, lr: float, device: torch.device) -> None:
        """One line of metrics.jsonl, one point of each curve, and one plain line where there is no terminal."""
        elapsed = max(time.monotonic() - self.logged_at, 1e-9)
        rate = (nimg - self.logged_nimg) / elapsed
        facts: dict[str, Any] = {
            "nimg": nimg,
            "loss": sum(self.losses) / len(self.losses),
            "grad_norm": sum(self.norms) / len(self.norms),
            "lr": lr,
            "img_per_s": rate,
            "wait": self.waited_s / elapsed,
            "memory_mb": memory_mb(device),
        }
        self.lines.write(json.dumps(facts) + "\n")
        self.lines.flush()
        for key, value in facts.items():
            if key != "nimg":
                self.curves.add_scalar(key, value, nimg)
        if self.bar.disable:
            left = (self.images - nimg) / max(rate, 1e-9)
            print(
                f"{self.name}: {nimg:,} of {self.images:,} img, loss {facts['loss']:.4f}, {rate:.0f} img/s, "
                f"{left / 60:.1f} min left",
                file=sys.stderr,
                flush=True,
            )
        self.losses, self.norms, self.waited_s = [], [], 0.0
        self.logged_at, self.logged_nimg = time.monotonic(), nimg

    def grid(self, picture: Tensor, nimg: int) -> None:
        """A uint8 (c, h, w) picture for TensorBoard."""
        self.curves.add_image("grid", picture, nimg)

    def close(self) -> None:
        self.bar.close()
        self.lines.close()
        self.curves.close()


def memory_mb(device: torch.device) -> int:
    """Peak memory: of the device, or of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) >> 20
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
