"""The length of a training, and what goes with it: rate, warm-up, half-life, intervals (stages/README.md, "Batch, learning rate and
length belong together").
"""

import math
from dataclasses import asdict, dataclass

TURN = 2.0  # lr * sqrt(updates): by how far weights turn
LARGEST_LR = 0.08  # the best of 875 updates; shorter runs with more were not measured
FEWEST_UPDATES = 50  # below, there is nothing worth saving
SAVES, GRIDS, LINES = 10, 5, 50  # of a run


@dataclass(frozen=True, kw_only=True)
class Length:
    """The keys of `train` that follow from how long a run is; all but lr are in images."""

    images: int
    lr: float
    warmup: int
    ema: int
    save_every: int
    grid_every: int
    log_every: int

    def overrides(self, stage: str) -> list[str]:
        """The same as dotted overrides of a cascade's config."""
        values = asdict(self) | {"ema": f"[{self.ema}]"}
        return [f"stages.{stage}.train.{key}={value}" for key, value in values.items()]


def check_minutes(minutes: float) -> None:
    """Raise ValueError for a --minutes that is no time."""
    if not 0 < minutes < math.inf:
        raise ValueError(f"--minutes {minutes:g}: minutes above 0 are needed")


def length_of(images: float, batch: int) -> Length:
    """The settings of a run of about so many images: whole batches, and at least FEWEST_UPDATES of them."""
    updates = max(FEWEST_UPDATES, round(images / batch))

    def share(parts: int, fewest: int) -> int:
        return max(fewest, -(-updates // parts)) * batch

    return Length(
        images=updates * batch,
        lr=float(f"{min(LARGEST_LR, TURN / math.sqrt(updates)):.2g}"),
        warmup=min(100, updates // 10) * batch,
        ema=share(20, 1),
        save_every=share(SAVES, FEWEST_UPDATES),
        grid_every=share(GRIDS, 1),
        log_every=share(LINES, 1),
    )
