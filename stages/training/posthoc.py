"""Averages of any half-life after training, from stored averages (post-hoc EMA, Karras et al. 2024, section 3.2).

An average is a weighted sum of the weights after each update; its *profile* lists the factors. The profile of the wanted average
is approximated, in the least-squares sense, by those of the stored averages, and the stored weights are summed with the same
coefficients. Difference to EDM2: profiles are exponential with a ramp (ema.py) instead of powers, computed from their definition.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from .checkpoints import CHECKPOINT_NAME, check_manifest
from .ema import RAMP_UP, begun_at
from .rundir import RunDir

POINTS = 100_000  # of a profile at most; longer runs are sampled in coarser steps
WORST = 0.2  # relative error of a profile above which the average is refused


@dataclass(frozen=True, order=True)
class Stored:
    """One average on disk: images seen, half-life in images, file; begun: images seen when it was started from the weights."""

    nimg: int
    half_life: int
    path: Path
    begun: int = 0


def stored_averages(run: Path) -> list[Stored]:
    """All averages in the snapshots and whole checkpoints of a run, by (nimg, half-life), once each."""
    averages: dict[tuple[int, int], Stored] = {}
    for folder in sorted([*RunDir(run).snapshots.glob("nimg-*"), *RunDir(run).checkpoints.glob("nimg-*")]):
        match = CHECKPOINT_NAME.fullmatch(folder.name)
        if not match or (folder.parent.name == "checkpoints" and check_manifest(folder)):
            continue
        for path in folder.glob("ema-*.safetensors"):
            half_life = path.stem.removeprefix("ema-")
            if half_life.isdigit():
                averages[int(match[1]), int(half_life)] = Stored(int(match[1]), int(half_life), path, begun_at(path))
    return sorted(averages.values())


def profile(half_life: float, nimg: int, *, end: int, step: int, begun: int = 0) -> Tensor:
    """Profile (end // step + 1,) float64 of the average at `nimg`: factors of the random start and of the weights after each step.

    Sums to 1. An update decays by 0.5 ** (step / min(half_life, RAMP_UP n)) at n images; at `begun` the average equals the
    weights.
    """
    seen = torch.arange(step, end + step, step, dtype=torch.float64)[: end // step]
    decay = 0.5 ** (step / torch.clamp(RAMP_UP * seen, max=float(half_life)))
    decay = torch.where(seen <= begun, 0.0, torch.where(seen <= nimg, decay, 1.0))
    survival = decay.flip(0).cumprod(0).flip(0)  # the share of an update's predecessors left at the end
    remaining = torch.cat([survival[1:], survival.new_ones(1)])
    shares = torch.where(seen <= nimg, (1 - decay) * remaining, 0.0)
    return torch.cat([survival[:1] if len(survival) else survival.new_ones(1), shares])


def coefficients(stored: list[Stored], half_life: float, nimg: int, batch: int) -> tuple[Tensor, float]:
    """Factors (len(stored),) of the stored averages in the wanted one, and the relative error of its profile."""
    step = batch * max(1, -(-nimg // (batch * POINTS)))
    profiles = torch.stack(
        [profile(average.half_life, average.nimg, end=nimg, step=step, begun=average.begun) for average in stored],
        dim=1,
    )
    target = profile(half_life, nimg, end=nimg, step=step)
    factors = torch.linalg.lstsq(profiles, target[:, None], driver="gelsd").solution[:, 0]
    return factors, ((profiles @ factors - target).norm() / target.norm()).item()


def reconstruct(run: Path, half_life: float, nimg: int, batch: int) -> tuple[dict[str, Tensor], float]:
    """The averaged weights of any half-life at `nimg`, and their profile's error. Raises ValueError if that is too large."""
    stored = [average for average in stored_averages(run) if average.nimg <= nimg]
    if not stored:
        raise ValueError(f"{run}: no averages up to image {nimg:,}; train with train.snapshot_every above 0")
    factors, error = coefficients(stored, half_life, nimg, batch)
    if not error <= WORST:
        lives = sorted({average.half_life for average in stored})
        raise ValueError(
            f"{run}: half-life {half_life:,.0f} at image {nimg:,} is not in the {len(stored)} stored averages (error "
            f"{error:.0%}, {WORST:.0%} is allowed); half-lives from {lives[0]:,} to {lives[-1]:,} are, or store more often "
            "with train.snapshot_every"
        )
    weights: dict[str, Tensor] = {}
    for average, factor in zip(stored, factors.tolist(), strict=True):
        for name, tensor in tensors(average.path):
            weights[name] = weights.get(name, 0) + factor * tensor.double()
    return {name: tensor.float() for name, tensor in weights.items()}, error


def tensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a safetensors file, one at a time."""
    with safe_open(path, "pt") as file:
        for name in file.keys():  # noqa: SIM118 - not a dict
            yield name, file.get_tensor(name)
