"""The rule by which a sweep chooses: as the one-standard-error rule (Breiman et al. 1984), with the cost of sampling as complexity
and two errors, because the best of some twenty setups is flattered.

All that is not worse than the best by more than the spread, two standard errors of the difference, is as good as the best. Of
these the rule takes what costs fewest network calls, and of equals what was there first. A second measure narrows the choice,
and nothing is chosen that spoils it. Estimates of one stage are paired: same conditions, same noise, same true pictures.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cascade.judge.estimate import Estimate
from cascade.judge.features import SAMPLES_A_DIMENSION
from cascade.judge.fidelity import psnr
from cascade.judge.kernel import kernel_estimate
from cascade.judge.look import DIMENSIONS, LOOK, look
from cascade.judge.matching import match
from cascade.judge.sweep_setup import Setup
from cascade.judge.wasserstein import finest_estimate
from data.alpha import on_background

SPREAD = 2.0  # standard errors of a difference: what is closer is equal
ENOUGH = SAMPLES_A_DIMENSION * DIMENSIONS  # pictures of which KID can be computed
FEWEST = 16  # pictures of which anything is chosen
KID, SWD, MATCH, PSNR = "KID", "SWD", "match", "PSNR"
EQUAL = 100.0  # dB, of a picture that is the true one
LOWER = {KID, SWD}  # is better
JUDGE = hashlib.sha256(f"sweep-1 {LOOK.sha256} {SPREAD} {ENOUGH}".encode()).hexdigest()
"""Changes with what is measured and with the rule."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A setup with its scores. step: number of the coordinate at which it was first tried, 0 for the cascade as it is.

    calls: rows of the network a picture. seconds: what painting and judging took.
    """

    setup: Setup
    step: int
    calls: int
    seconds: float
    scores: Mapping[str, Estimate]

    @property
    def deciding(self) -> str:
        """The name of the score that decides: the first."""
        return next(iter(self.scores))

    def loss(self, name: str) -> float:
        """A score with the sign that makes less better."""
        return self.scores[name].value * (1 if name in LOWER else -1)


def scores_of(
    truth: Tensor, made: Tensor, seed: int, *, matched: bool, from_true: Tensor | None = None
) -> dict[str, Estimate]:
    """Scores of pictures uint8 (n, 3 or 4, h, w), row k of both under one condition; transparent ones on white. The first decides.

    KID where there are enough pictures, else the finest level of SWD, which also stands second. matched: whether the second is
    instead that pictures match their conditions. from_true: what the stage made of true low_res, for PSNR.
    """
    generator = torch.Generator().manual_seed(seed)
    seen = on_background(truth), on_background(made)
    features = [look(each) for each in seen]
    found: dict[str, Estimate] = {}
    if len(made) >= ENOUGH:
        found[KID] = kernel_estimate(*features)
    if len(made) < ENOUGH or not matched:
        found[SWD] = finest_estimate(*seen, generator)
    if matched:
        found[MATCH] = match(*features)
    if from_true is not None:
        found[PSNR] = Estimate.of_mean(psnr(from_true, truth).clamp(max=EQUAL))
    return found


def choose(trials: Sequence[Trial], floor: float = float("-inf")) -> Trial:
    """The trial that the rule takes; trials[0] is the cascade as it is. floor: a PSNR in dB below which no other is taken."""
    start = trials[0]
    ties = [trial for trial in trials if trial is start or not spoilt(trial, start, floor)]
    for name in start.scores:
        if name != PSNR:
            ties = as_good(ties, name)
    return min(ties, key=lambda trial: (trial.calls, trial.step, trial.loss(start.deciding)))


def as_good(trials: Sequence[Trial], name: str) -> list[Trial]:
    """The trials that are not worse than the best by more than the spread."""
    best = min(trials, key=lambda trial: trial.loss(name))
    return [trial for trial in trials if not is_worse(trial, best, name)]


def is_worse(trial: Trial, other: Trial, name: str) -> bool:
    """Whether a score is worse by more than the spread."""
    difference = trial.scores[name] - other.scores[name]
    return trial.loss(name) - other.loss(name) > SPREAD * difference.error


def spoilt(trial: Trial, start: Trial, floor: float) -> str:
    """The score, other than the deciding one, that a trial spoils; "" if it spoils none."""
    for name in trial.scores:
        if name == PSNR and trial.scores[name].value < min(floor, start.scores[name].value):
            return name
        if name not in (PSNR, trial.deciding) and is_worse(trial, start, name):
            return name
    return ""


def verdict(chosen: Trial, trials: Sequence[Trial], floor: float) -> str:
    """Why a trial was chosen, in a sentence."""
    start, name = trials[0], trials[0].deciding
    fair = [trial for trial in trials if trial is start or not spoilt(trial, start, floor)]
    best = min(fair, key=lambda trial: trial.loss(name))
    gain, error = _gain(chosen, start)
    if chosen is start:
        if best is start:
            return f"it stays as it is: nothing of {len(trials)} setups has a better {name}"
        return (
            f"it stays as it is: the gain is below the spread ({_told(best, start)} for {best.setup.told(start.setup)})"
        )
    cost = f"{chosen.calls} calls a picture instead of {start.calls}"
    if gain > SPREAD * error:
        parts = [f"better: {_told(chosen, start)}, {cost}"]
    elif chosen.calls < start.calls:
        parts = [f"as good within the spread ({_told(chosen, start)}), {cost}"]
    else:
        parts = [f"within the spread in {name} ({_told(chosen, start)}), better otherwise, {cost}"]
    if best is not chosen:
        parts.append(f"of {best.setup.told(chosen.setup)} the gain is below the spread ({_told(best, chosen)})")
    return "; ".join(parts)


def _gain(trial: Trial, other: Trial) -> tuple[float, float]:
    name = trial.deciding
    return other.loss(name) - trial.loss(name), (other.scores[name] - trial.scores[name]).error


def _told(trial: Trial, other: Trial) -> str:
    gain, error = _gain(trial, other)
    return f"{trial.deciding} {-gain if trial.deciding in LOWER else gain:+.4f} +- {error:.4f}"
