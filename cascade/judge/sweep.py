"""Chooses how each stage of a cascade samples: coordinate by coordinate, stage by stage, within a given time.

A super-resolution stage is judged on what the stage below it paints with the settings that were chosen for that: quality over
aug_sigma falls on true low_res and first rises on painted ones (Ho et al. 2021). All trials of a stage paint the same conditions
with the same noise. What each stage makes of true low_res stands beside, so that a fault is attributed to its stage.
"""

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from cascade.judge.estimate import Estimate
from cascade.judge.fidelity import psnr
from cascade.judge.halves import portions
from cascade.judge.painted import PAINTED_AT_ONCE, at_size, paint
from cascade.judge.sweep_rule import ENOUGH, FEWEST, Trial, choose, scores_of, verdict
from cascade.judge.sweep_setup import Setup, Space, calls_of, coordinates
from cascade.judge.sweep_store import Store
from cascade.judge.sweep_weights import Weights
from cascade.link import Link
from data.batch import Batch, to_float, to_uint8
from data.resize import upsample

ROUNDS = 4  # passes over all coordinates at most: the first is coarse, the others are fine
TRUE_LOW_RES, RAW = "true low_res", "raw weights"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What was found for a stage. trials[0] is the cascade as it was; bounds: scores of `chosen` on other input or weights.

    skipped: setups for which there was no time.
    """

    link: Link
    trials: tuple[Trial, ...]
    chosen: Trial
    verdict: str
    bounds: Mapping[str, Mapping[str, Estimate]]
    skipped: int

    @property
    def seconds(self) -> float:
        """What all trials took."""
        return sum(trial.seconds for trial in self.trials)


@dataclass(kw_only=True)
class Search:
    """The search for one stage. below: painted pictures of the stage below, uint8, one a picture; None for a stage that begins.

    budget_s: seconds for it. told: is called with each trial, and the setup to name it against. only: the coordinates that are
    changed, by name; None: all.
    """

    link: Link
    weights: Weights
    pictures: Batch
    below: Tensor | None
    seed: int
    store: Store
    budget_s: float
    told: Callable[[Trial, Setup], None]
    only: Collection[str] | None = None
    trials: list[Trial] = field(default_factory=list)
    skipped: set[str] = field(default_factory=set)
    spent_s: float = 0.0
    _made: tuple[Setup, Tensor] | None = None

    def __post_init__(self) -> None:
        config = self.link.sidecar.config
        self.truth = at_size(self.pictures.image, config.gives)
        self.true_low_res = None if config.takes is None else at_size(self.pictures.image, config.takes)
        self.floor = float("-inf")
        if self.true_low_res is not None and len(self.pictures) < ENOUGH:
            enlarged = to_uint8(upsample(to_float(self.true_low_res), (self.truth.shape[2], self.truth.shape[3])))
            self.floor = psnr(enlarged, self.truth).mean().item()

    def run(self) -> Outcome:
        """Search until nothing changes or the time is over."""
        space = Space.of(self.link, self.weights.half_lives())
        start = self._tried(Setup(sample=self.link.settings), 0)
        step = 0
        for number in range(ROUNDS):
            before = self.chosen
            for name, others in coordinates(space):
                step += 1
                if self.only is not None and name not in self.only:
                    continue
                for setup in list(others(self.chosen.setup, [trial.setup for trial in self.trials], number > 0)):
                    if all(trial.setup != setup for trial in self.trials) and self._fits(setup, start):
                        self._tried(setup, step)
            if number > 0 and self.chosen is before:
                break
        return Outcome(
            link=self.link, trials=tuple(self.trials), chosen=self.chosen,
            verdict=verdict(self.chosen, self.trials, self.floor), bounds=self._bounds(), skipped=len(self.skipped),
        )  # fmt: skip

    @property
    def chosen(self) -> Trial:
        """The best so far, by the rule."""
        return choose(self.trials, self.floor)

    def painted(self) -> Tensor:
        """The pictures of the chosen setup, for the stage above: stored, so that all its trials have the same."""
        setup = self.chosen.setup
        stored = self.store.painted(self.link.name, setup)
        if stored is not None and len(stored) == len(self.pictures):
            return stored
        made = self._made[1] if self._made and self._made[0] == setup else self._paint(self._with(setup), self.below)
        self.store.keep(self.link.name, setup, made)
        return made

    def _fits(self, setup: Setup, start: Trial) -> bool:
        """Whether there is time for a trial, by what the first took; one that was stored has been paid for."""
        if self.store.trial(self.link.name, setup, 0):
            return True
        expected = start.seconds * calls_of(self.link, setup.sample) / start.calls
        reserve = start.seconds * (1 if self.true_low_res is not None else 0)
        if self.spent_s + expected + reserve <= self.budget_s:
            return True
        self.skipped.add(repr(setup))
        return False

    def _tried(self, setup: Setup, step: int) -> Trial:
        trial = self.store.trial(self.link.name, setup, step)
        if trial is None:
            trial = self._judged(setup, step)
            self.store.add(self.link.name, trial)
        self.spent_s += trial.seconds
        self.trials.append(trial)
        self.told(trial, self.trials[0].setup)
        return trial

    def _judged(self, setup: Setup, step: int) -> Trial:
        began = time.monotonic()
        link = self._with(setup)
        made = self._paint(link, self.below)
        scores = self._scores(link, made)
        trial = Trial(
            setup=setup, step=step, calls=calls_of(link, setup.sample), seconds=time.monotonic() - began,
            scores=scores,
        )  # fmt: skip
        if not self.trials or choose([*self.trials, trial], self.floor) is trial:
            self._made = (setup, made)
        return trial

    def _scores(self, link: Link, made: Tensor) -> dict[str, Estimate]:
        begins = self.true_low_res is None
        from_true = None
        if not begins and len(made) < ENOUGH:
            from_true = self._paint(link, self.true_low_res)
        matched = begins and bool(link.sidecar.config.cond.names)
        return scores_of(self.truth, made, self.seed, matched=matched, from_true=from_true)

    def _with(self, setup: Setup) -> Link:
        link = self.weights.averaged(setup.half_life) if setup.half_life else self.link
        return replace(link, settings=setup.sample)

    def _paint(self, link: Link, below: Tensor | None) -> Tensor:
        rows = iter(below.split(PAINTED_AT_ONCE)) if below is not None else None
        parts = []
        for batch in portions(self.pictures, PAINTED_AT_ONCE):
            parts.append(paint(link, batch, next(rows) if rows else None, seed=self.seed))
        return torch.cat(parts)

    def _bounds(self) -> dict[str, dict[str, Estimate]]:
        """The chosen setup on true low_res, and with weights that are no average."""
        found: dict[str, dict[str, Estimate]] = {}
        link = self._with(self.chosen.setup)
        if self.true_low_res is not None:
            below = self.true_low_res
            found[TRUE_LOW_RES] = self._bound(TRUE_LOW_RES, lambda: (self._paint(link, below), True))
        raw = self.weights.raw()
        if raw is not None:
            settled = replace(raw, settings=self.chosen.setup.sample)
            found[RAW] = self._bound(RAW, lambda: (self._paint(settled, self.below), False))
        return found

    def _bound(self, name: str, made: Callable[[], tuple[Tensor, bool]]) -> dict[str, Estimate]:
        key = f"{name} {self.chosen.setup!r}"
        stored = self.store.bound(self.link.name, key)
        if stored is None:
            began = time.monotonic()
            pictures, paired = made()
            matched = self.true_low_res is None and bool(self.link.sidecar.config.cond.names)
            scores = scores_of(self.truth, pictures, self.seed, matched=matched, from_true=pictures if paired else None)
            stored = scores, time.monotonic() - began
            self.store.add_bound(self.link.name, key, *stored)
        self.spent_s += stored[1]
        return stored[0]


def sweep(
    links: list[Link],
    weights: Mapping[str, Weights],
    pictures: Batch,
    *,
    seed: int,
    store: Store,
    minutes: float,
    told: Callable[[Link, Trial, Setup], None],
    only: Mapping[str, Collection[str]] | None = None,
) -> Iterator[Outcome]:
    """The outcome of each stage, base first. Seconds that a stage leaves go to those above it. only: the coordinates of each stage
    that are changed, none of a stage that is not in it; None: all.

    Raises ValueError for too few pictures.
    """
    if len(pictures) < FEWEST:
        raise ValueError(f"{len(pictures)} pictures to choose on; at least {FEWEST} are needed: add pictures")
    below: Tensor | None = None
    left_s = 60 * minutes
    for number, link in enumerate(links):
        search = Search(
            link=link, weights=weights[link.name], pictures=pictures, below=below, seed=seed, store=store,
            budget_s=left_s / (len(links) - number), told=partial(told, link),
            only=None if only is None else only.get(link.name, ()),
        )  # fmt: skip
        yield search.run()
        left_s -= search.spent_s
        if link is not links[-1]:
            below = search.painted()


def least_seconds(links: list[Link], pictures: Batch, store: Store, seed: int) -> float:
    """About the seconds of the least that a sweep can do: each stage as it is, one other setup, and true low_res.

    Measured by calls for one portion of pictures, for stages that the store has nothing of.
    """
    total = 0.0
    for link in links:
        config = link.sidecar.config
        if store.trial(link.name, Setup(sample=link.settings), 0):
            continue
        few = pictures[slice(0, PAINTED_AT_ONCE)]
        below = None if config.takes is None else at_size(few.image, config.takes)
        sample = link.settings.model_copy(update={"sampler": "euler", "num_steps": 1, "guidance_scale": 1.0})
        took = []
        for _ in range(2):  # the first call prepares
            began = time.monotonic()
            paint(replace(link, settings=sample), few, below, seed=seed)
            took.append(time.monotonic() - began)
        once = min(took) / len(few) * len(pictures) * calls_of(link, link.settings)
        of_true = 0 if below is None else 1
        total += once * (2 * (1 + of_true * (len(pictures) < ENOUGH)) + of_true)
    return total
