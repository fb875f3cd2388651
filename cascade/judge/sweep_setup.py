"""What a sweep may choose for one stage, and in which order it is tried: one coordinate at a time, first coarse, then fine.

A coordinate turns the setup that is best so far into others that differ in one thing. Coarse values are those that papers and our
presets use; fine ones lie halfway to the nearest values that were tried.
"""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from pydantic import ValidationError

from cascade.link import Link, over
from stages.ask import OWN
from stages.config import SampleConfig
from stages.diffusion.samplers import SAMPLERS, num_queries
from stages.guidance import rows_by_call
from stages.texts import as_values

SCALES = (1.0, 1.5, 2.0, 3.0, 4.5)
LEVELS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5)  # of aug_sigma
FACTORS = (0.25, 0.5, 2.0)  # of sigma_max
DOWN = (0.1, 0.3)  # of sigma_min
COORDINATES = ("half_life", "aug_sigma", "sampler", "guidance_scale", "guidance_interval", "sigma_max", "sigma_min")
OFF = 1e9  # above all levels: an interval up to here is open


@dataclass(frozen=True, kw_only=True)
class Setup:
    """How a stage paints: its sampling settings, and the half-life of its averaged weights in images; 0: the bundle's own."""

    sample: SampleConfig
    half_life: int = 0

    def as_json(self) -> dict[str, Any]:
        """The setup as plain values; `of_json` reads them."""
        return {"sample": as_values(self.sample), "half_life": self.half_life}

    @classmethod
    def of_json(cls, values: dict[str, Any]) -> "Setup":
        """The setup of plain values. Raises ValueError, KeyError or TypeError for others."""
        return cls(sample=SampleConfig.model_validate(values["sample"]), half_life=int(values["half_life"]))

    def differences(self, before: "Setup") -> dict[str, Any]:
        """What differs from another setup, with its value here."""
        old, new = ({**as_values(each.sample), "half_life": each.half_life} for each in (before, self))
        return {name: value for name, value in new.items() if old.get(name) != value}

    def told(self, before: "Setup") -> str:
        """The differences from another setup, for people."""
        parts = [f"{name} {setting_text(value)}" for name, value in self.differences(before).items()]
        return ", ".join(parts) or "as it is"


@dataclass(frozen=True, kw_only=True)
class Space:
    """What a stage allows. max_aug_sigma: None for a stage that takes no picture. half_lives: of averages at hand, ascending."""

    guidable: bool
    max_aug_sigma: float | None
    half_lives: tuple[int, ...] = ()

    @classmethod
    def of(cls, link: Link, half_lives: tuple[int, ...] = ()) -> "Space":
        """The space of a stage in its chain."""
        config = link.sidecar.config
        most = None if config.takes is None else config.max_aug_sigma
        settings = (
            link.settings
        )  # a scale of text or label alone was somebody's choice, and guidance_scale does nothing then
        guidable = link.is_guidable and settings.guidance_text is None and settings.guidance_label is None
        return cls(guidable=guidable, max_aug_sigma=most, half_lives=half_lives)


def calls_of(link: Link, sample: SampleConfig) -> int:
    """Rows that the networks of a stage compute for one picture with these settings."""
    return calls(sample, link.sidecar.config.cond.names, link.hosts)


def calls(sample: SampleConfig, names: tuple[str, ...] = (), hosts: Collection[str] = frozenset({OWN})) -> int:
    """The same, of a stage with these conditions and hosts."""
    return sum(sum(rows.values()) for rows in rows_by_call(sample, names, hosts))


def coordinates(space: Space) -> Iterator[tuple[str, Callable[[Setup, Sequence[Setup], bool], Iterable[Setup]]]]:
    """(name, function) of each coordinate in the order of the search.

    Steps come early: what saves calls makes all later trials cheaper. The function takes the best setup so far, all that were
    tried, and whether fine steps are wanted; it gives setups to try.
    """
    if space.half_lives:
        yield "half_life", lambda now, _tried, fine: [] if fine else _half_lives(now, space)
    if space.max_aug_sigma:
        yield "aug_sigma", lambda now, tried, fine: _aug_sigmas(now, tried, fine, space)
    yield "sampler", _samplers
    if space.guidable:
        yield "guidance_scale", _scales
        yield "guidance_interval", lambda now, _tried, fine: [] if fine else _intervals(now)
    yield "sigma_max", _sigma_maxes
    yield "sigma_min", _sigma_mins


def _half_lives(now: Setup, space: Space) -> Iterable[Setup]:
    return [replace(now, half_life=half_life) for half_life in space.half_lives]


def _aug_sigmas(now: Setup, tried: Sequence[Setup], fine: bool, space: Space) -> Iterable[Setup]:
    values: Iterable[float] = LEVELS
    if fine:
        values = _between(now.sample.aug_sigma, {each.sample.aug_sigma for each in tried}, geometric=False)
    assert space.max_aug_sigma is not None
    return _valid(now, ({"aug_sigma": value} for value in values if value <= space.max_aug_sigma))


def _sigma_maxes(now: Setup, tried: Sequence[Setup], fine: bool) -> Iterable[Setup]:
    level = now.sample.sigma_max
    values: Iterable[float] = (_round(level * factor) for factor in FACTORS)
    if fine:
        values = _between(level, {each.sample.sigma_max for each in tried}, geometric=True)
    return _valid(now, ({"sigma_max": value} for value in values))


def _sigma_mins(now: Setup, tried: Sequence[Setup], fine: bool) -> Iterable[Setup]:
    """A lower last level; also with one more step, without which the others lie farther apart."""
    level, num = now.sample.sigma_min, now.sample.num_steps
    values = [_round(level * factor) for factor in DOWN]
    if fine:
        values = _between(level, {each.sample.sigma_min for each in tried}, geometric=True)
    more = () if fine else ({"sigma_min": value, "num_steps": num + 1} for value in values)
    return _valid(now, [*({"sigma_min": value} for value in values), *more])


def _scales(now: Setup, tried: Sequence[Setup], fine: bool) -> Iterable[Setup]:
    values: Iterable[float] = SCALES
    if fine:
        values = _between(now.sample.guidance_scale, {each.sample.guidance_scale for each in tried}, geometric=True)
    return _valid(now, ({"guidance_scale": value} for value in values))


def _intervals(now: Setup) -> Iterable[Setup]:
    """Guidance without the highest levels, without the lowest, and without both (Kynkaanniemi et al. 2024)."""
    levels = now.sample.sigmas.tolist()[:-1]
    if now.sample.guidance_scale == 1 or len(levels) < 4:
        return []
    between = [_round(math.sqrt(a * b)) for a, b in pairwise(levels)]
    quarter, half, last = (between[len(between) * part // 4] for part in (1, 2, 3))
    spans = ((0.0, quarter), (0.0, half), (last, OFF), (last, quarter), (half, OFF))
    return _valid(now, ({"guidance_interval": span} for span in spans))


def _samplers(now: Setup, _tried: Sequence[Setup], fine: bool) -> Iterable[Setup]:
    num, sampler = now.sample.num_steps, now.sample.sampler
    if fine:
        steps = {max(1, round(num * factor)) for factor in (0.75, 1.5)}
        return _valid(now, ({"num_steps": each} for each in sorted(steps)))
    same = [{"num_steps": each} for each in (num // 4, num // 2, 2 * num) if each]
    others: list[dict[str, Any]] = []
    now_calls = num_queries(sampler, num, now.sample.options)
    for name, kind in SAMPLERS.items():
        if name != sampler and (name == "euler" or (kind.order > 1 and not kind.adapts)):
            fitting = next((n for n in range(num, 0, -1) if num_queries(name, n) <= now_calls), 1)
            others.append({"sampler": name, "num_steps": fitting})
    return _valid(now, [*same, *others, {"sampler": "euler", "num_steps": 1}])


def _valid(now: Setup, changes: Iterable[dict[str, Any]]) -> Iterator[Setup]:
    """The setups of these changes, without those that no stage accepts."""
    for change in changes:
        try:
            sample = SampleConfig.model_validate(over(now.sample.model_dump(), change))
        except ValidationError:
            continue
        yield replace(now, sample=sample)


def _between(value: float, tried: set[float], *, geometric: bool) -> list[float]:
    """The middles between a value and its neighbours among those that were tried."""
    neighbours = [max((each for each in tried if each < value), default=None)]
    neighbours.append(min((each for each in tried if each > value), default=None))
    return [
        _round(math.sqrt(value * each) if geometric and value * each > 0 else (value + each) / 2)
        for each in neighbours
        if each is not None
    ]


def _round(value: float) -> float:
    return float(f"{value:.3g}")


def setting_text(value: Any) -> str:
    """A value of a setting, for people."""
    if isinstance(value, list | tuple):
        return f"({', '.join('open' if each >= OFF else setting_text(each) for each in value)})"
    return f"{value:g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
