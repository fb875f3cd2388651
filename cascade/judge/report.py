"""Everything that a report of a cascade says, as numbers and pictures; `page` shows it.

Each stage paints the conditions of held-out pictures with the settings of the manifest, and is scored against their true pictures.
A super-resolution stage is also judged on true low_res, so that a fault is attributed to its stage. What cannot be measured is
named with its reason.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from cascade.judge.about import About, groupings, read_about
from cascade.judge.brief import Brief, Point, brief, curve
from cascade.judge.each import Each, mean_error, small
from cascade.judge.features import halves
from cascade.judge.grain import grain, sharpness
from cascade.judge.identity import judge_sha256
from cascade.judge.local import Networks
from cascade.judge.look import LOOK, look
from cascade.judge.matching import matches
from cascade.judge.mismatch import Row, mismatch
from cascade.judge.neighbours import Neighbours, neighbours
from cascade.judge.painted import at_size, paint, read_conditions
from cascade.judge.report_concepts import Concepts, concepts, questions
from cascade.judge.ruler import ThingRuler
from cascade.judge.score import Scores, score
from cascade.judge.side import BACKGROUNDS, Side
from cascade.judge.wasserstein import finest_estimate
from cascade.manifest import Evidence
from cascade.pipeline import Cascade
from data.alpha import on_background
from data.batch import Batch
from data.decode import WHITE
from data.read.mixture import facts
from data.read.shards import read_split
from data.resize import RESIZE_VERSION

FEWEST = 4  # pictures: halves of fewer have no spread
THUMBNAIL = 128  # px: larger training pictures are kept and compared at this side
TRUE, PAINTED = "true", "painted"


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What to measure. num: most held-out pictures (0: all of the split); num_curve: of them, for each point of a curve.

    num_training: most training pictures, among which neighbours are looked for. levels, steps, guidance: values of the curves; the
    manifest's own are always among them; empty: no curve.
    """

    split: str = "val"
    num: int = 0
    num_curve: int = 48
    num_training: int = 10_000
    levels: tuple[float, ...] = ()
    steps: tuple[int, ...] = ()
    guidance: tuple[float, ...] = ()
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class StageReport:
    """A stage's pictures uint8 (n, 3, h, w) beside the true ones at its size; scores and briefs by background, white first.

    ideal: scores of its pictures of true low_res, None for a base stage. swd_floors: by background, the finest level's distance
    between two halves of the true pictures, and its error."""

    name: str
    resolution: int
    sha256: str
    nimg: int
    trained_on: str
    settings: dict[str, Any]
    pictures: Tensor
    truth: Tensor
    scores: dict[str, Scores]
    briefs: dict[str, Brief]
    ideal: Brief | None
    swd_floors: dict[str, tuple[float, float]]

    @property
    def brief(self) -> Brief:
        """On the first background."""
        return next(iter(self.briefs.values()))

    @property
    def swd_floor(self) -> tuple[float, float]:
        """On the first background."""
        return next(iter(self.swd_floors.values()))


@dataclass(frozen=True, kw_only=True)
class Training:
    """Training pictures that were compared: thumbnails (n, 3, h, w), keys, and how many there are in all."""

    thumbnails: Tensor
    keys: tuple[str, ...]
    total: int


@dataclass(frozen=True, kw_only=True)
class Report:
    """A cascade, measured.

    near, near_true: training neighbours of painted and of true held-out pictures; left_out: what is missing, and why.
    concepts: right things and styles, if there was a ruler; evidence: of a sweep, by stage, where one chose the settings."""

    names: tuple[str, ...]
    data: str
    fingerprint: str
    background: str
    wanted: Wanted
    keys: tuple[str, ...]
    captions: tuple[str, ...]
    groups: dict[str, list[str]]
    stages: list[StageReport]
    rows: list[Row]
    points: list[Point]
    each: list[Each]
    training: Training | None
    near: Neighbours | None
    near_true: Neighbours | None
    left_out: dict[str, str]
    concepts: Concepts | None = None
    evidence: Mapping[str, Evidence] = field(default_factory=dict)

    @property
    def painted(self) -> list[Each]:
        """The numbers of the painted pictures, in the order of `keys`."""
        return [each for each in self.each if each.side == PAINTED]

    def as_json(self) -> dict[str, Any]:
        """All numbers as plain values, with what they depend on."""
        return {
            "stages": [
                {"name": s.name, "resolution": s.resolution, "sha256": s.sha256, "nimg": s.nimg, "trained_on": s.trained_on}
                | {"settings": s.settings, "swd_floor": s.swd_floor}
                | {"scores": {name: each.as_json() for name, each in s.scores.items()}, "brief": asdict(s.brief)}
                | {"briefs": {name: asdict(each) for name, each in s.briefs.items()}}
                | {"on_true_low_res": asdict(s.ideal) if s.ideal else None}
                for s in self.stages
            ],
            "data": self.data, "fingerprint": self.fingerprint, "background": self.background, "resize": RESIZE_VERSION,
            "wanted": asdict(self.wanted), "num": len(self.keys), "judge_sha256": judge_sha256(),
            "ruler": {"name": LOOK.name, "sha256": LOOK.sha256},
            "mismatch": [row.as_json() for row in self.rows], "curves": [point.as_json() for point in self.points],
            "nearer_than_real": _shares(self.near, self.near_true), "groups": self.by_group(), "left_out": self.left_out,
            "concepts": self.concepts and self.concepts.as_json(),
            "sweep": {name: each.model_dump(mode="json") for name, each in self.evidence.items()},
        }  # fmt: skip

    def by_group(self) -> dict[str, dict[str, dict[str, Any]]]:
        """By fact and value: N, and the means with their standard errors of match, grain and sharpness."""
        found: dict[str, dict[str, dict[str, Any]]] = {}
        for name, values in self.groups.items():
            for value in sorted(set(values)):
                rows = [row for row, own in zip(self.painted, values, strict=True) if own == value]
                numbers = {
                    key: mean_error(torch.tensor([getattr(row, key) for row in rows], dtype=torch.float64))
                    for key in ("match", "grain", "sharpness", "distance")
                    if all(getattr(row, key) is not None for row in rows)
                }
                found.setdefault(name, {})[value] = {"num": len(rows)} | numbers
        return found


def _shares(*sides: Neighbours | None) -> dict[str, tuple[float, float]]:
    return {
        name: mean_error(near.nearer)
        for name, near in zip((PAINTED, "held-out true"), sides, strict=True)
        if near is not None
    }


def make_report(
    model: Cascade, data: str, wanted: Wanted, say: Callable[[str], None] = lambda _: None, *,
    ruler: ThingRuler | None = None, evidence: Mapping[str, Evidence] | None = None, networks: Networks | None = None,
) -> Report:  # fmt: skip
    """Measure a cascade on held-out pictures. ruler: of things and styles; evidence: of a sweep, by stage, from the manifest;
    networks: published ones that are at hand.

    Raises ValueError where nothing can be measured, and for a ruler that knows none of the pictures.
    """
    if model.links[0].contract.low_res is not None:
        raise ValueError(
            f"cascade {', '.join(model.names)} starts with a super-resolution stage; give one with its base stage"
        )
    index = facts(data)
    batches = list(read_conditions(model, data, wanted.split, wanted.num))
    keys = tuple(key for batch in batches for key in batch.keys)
    if len(keys) < FEWEST:
        raise ValueError(f"data {data}: {len(keys)} pictures of split {wanted.split}; at least {FEWEST} are needed")
    about = _about(data, wanted.split, keys)
    background = str(index.settings.get("background", "unknown"))
    last = model.links[-1].sidecar.config.gives
    truth = torch.cat([at_size(batch.image, last) for batch in batches])
    asked = questions(ruler, keys, about, truth, data) if ruler else None
    captions = tuple(each.caption for each in about)
    stages, painted = _stages(model, batches, background, captions, wanted, networks or Networks(), say)
    left_out: dict[str, str] = {}
    if asked is None:
        left_out["right thing, right style"] = "no ruler was named (--ruler)"
    pictures = torch.cat(painted[-1])
    of_concepts = (
        concepts(asked, model, data, pictures, seed=wanted.seed, left_out=left_out, say=say) if asked else None
    )
    few = _first(batches, wanted.num_curve)
    training = _training(data, stages[-1].resolution, wanted, left_out, say)
    near, near_true = (
        neighbours(small(training.thumbnails), small(at_size(side, training.thumbnails.shape[2:])))
        if training
        else None
        for side in (stages[-1].pictures, stages[-1].truth)
    )
    return Report(
        names=tuple(model.names), data=data, fingerprint=index.fingerprint,
        background=background, wanted=wanted, keys=keys,
        captions=captions, groups=groupings(about), stages=stages,
        rows=list(_mismatch(model, data, wanted, left_out, say)),
        points=list(_curves(model, few, painted, wanted, left_out, say)),
        each=_each(stages[-1], keys, about, training, near, near_true), training=training, near=near, near_true=near_true,
        left_out=left_out, concepts=of_concepts, evidence=evidence or {},
    )  # fmt: skip


def _about(data: str, split: str, keys: Sequence[str]) -> list[About]:
    known = read_about(data, split)
    about = [known.get(key, About()) for key in keys]
    return [
        replace(each, caption=each.caption or each.label, facts={"group": each.label} | dict(each.facts))
        if each.label
        else each
        for each in about
    ]


def _stages(
    model: Cascade, batches: list[Batch], background: str, captions: tuple[str, ...], wanted: Wanted, networks: Networks,
    say: Callable[[str], None],
) -> tuple[list[StageReport], list[list[Tensor]]]:  # fmt: skip
    """The stages, and the pictures of each by batch."""
    found: list[StageReport] = []
    painted: list[list[Tensor]] = []
    below: list[Tensor] | None = None
    num = sum(map(len, batches))
    for link in model.links:
        config = link.sidecar.config
        truth = torch.cat([at_size(batch.image, config.gives) for batch in batches])
        say(f"{link.name}: painting {num:,} pictures")
        given: Sequence[Tensor | None] = below or [None] * len(batches)
        below = [paint(link, batch, low, seed=wanted.seed) for batch, low in zip(batches, given, strict=True)]
        painted.append(below)
        ideal = None
        if config.takes is not None:
            say(f"{link.name}: the same from true low_res")
            small_truth = [at_size(batch.image, config.takes) for batch in batches]
            pairs = zip(batches, small_truth, strict=True)
            of_true = torch.cat([paint(link, each, low, seed=wanted.seed) for each, low in pairs])
            ideal = brief(on_background(of_true), on_background(truth), wanted.seed)
        pictures = torch.cat(below)
        names = tuple(BACKGROUNDS) if truth.shape[1] == 4 else (background,)
        sides = {name: (_side(TRUE, truth, captions, name), _side(PAINTED, pictures, captions, name)) for name in names}
        laid = {name: (_laid(pictures, name), _laid(truth, name)) for name in names}
        truth, pictures = on_background(truth), on_background(pictures)
        found.append(
            StageReport(
                name=link.name, resolution=config.resolution, sha256=link.sidecar.sha256, nimg=link.sidecar.provenance.nimg,
                trained_on=link.sidecar.provenance.data,
                settings=link.settings.model_dump(mode="json"), pictures=pictures, truth=truth,
                scores={name: _scored(*each, wanted.seed, networks) for name, each in sides.items()},
                swd_floors={name: _swd_floor(true, wanted.seed) for name, (_, true) in laid.items()},
                briefs={name: brief(made, true, wanted.seed) for name, (made, true) in laid.items()}, ideal=ideal,
            )
        )  # fmt: skip
    return found, painted


def _scored(real: Side, generated: Side, seed: int, networks: Networks) -> Scores:
    return score(real, generated, seed=seed, found=networks.judge(real, generated, seed=seed))


def _swd_floor(truth: Tensor, seed: int) -> tuple[float, float]:
    generator = torch.Generator().manual_seed(seed)
    found = finest_estimate(*halves(truth, generator), generator)
    return found.value, found.error


def _laid(pictures: Tensor, background: str) -> Tensor:
    return on_background(pictures, BACKGROUNDS.get(background, WHITE))


def _side(name: str, pictures: Tensor, captions: tuple[str, ...], background: str) -> Side:
    """The pictures of a condition have one name on both sides: they are a pair."""
    return Side(
        name=name, pictures=_laid(pictures, background),
        names=tuple(map(str, range(len(pictures)))), background=background, captions=captions,
    )  # fmt: skip


def _first(batches: list[Batch], num: int) -> list[Batch]:
    """Whole batches with about the first `num` pictures, at least one."""
    few: list[Batch] = []
    for batch in batches:
        if few and sum(map(len, few)) >= num:
            break
        few.append(batch)
    return few


def _training(
    data: str, resolution: int, wanted: Wanted, left_out: dict[str, str], say: Callable[[str], None]
) -> Training | None:
    total = facts(data).num_images.get("train", 0)
    if total < 2 or wanted.split == "train":
        left_out["nearest training pictures"] = (
            "the pictures that are judged are the training pictures"
            if total > 1
            else f"the data have {total} pictures in split train; at least 2 are needed"
        )
        return None
    say(f"reading {min(total, wanted.num_training):,} training pictures")
    parts: list[Tensor] = []
    keys: list[str] = []
    side = min(resolution, THUMBNAIL)
    for batch in read_split(data, "train", batch=64, resolution=resolution, limit=wanted.num_training):
        parts.append(on_background(at_size(batch.image, (side, side))))
        keys += batch.keys
    return Training(thumbnails=torch.cat(parts), keys=tuple(keys), total=total)


def _mismatch(
    model: Cascade, data: str, wanted: Wanted, left_out: dict[str, str], say: Callable[[str], None]
) -> Iterator[Row]:
    name = "curves against aug_sigma"
    if not wanted.levels or len(model.links) < 2:
        left_out[name] = "no levels were asked for" if len(model.links) > 1 else "there is no super-resolution stage"
        return
    own = {link.settings.aug_sigma for link in model.links[1:]}
    levels = sorted({*wanted.levels, *own})
    try:
        for row in mismatch(model, data, split=wanted.split, num=wanted.num_curve, levels=levels, seed=wanted.seed):
            say(f"{row.stage}: aug_sigma {row.aug_sigma:g} on {row.low_res} low_res")
            yield row
    except ValueError as error:
        left_out[name] = str(error)


def _curves(
    model: Cascade, batches: list[Batch], painted: list[list[Tensor]], wanted: Wanted, left_out: dict[str, str],
    say: Callable[[str], None],
) -> Iterator[Point]:  # fmt: skip
    for number, link in enumerate(model.links):
        truth = torch.cat([at_size(batch.image, link.sidecar.config.gives) for batch in batches])
        below = painted[number - 1][: len(batches)] if number else None
        for setting, values in (("num_steps", wanted.steps), ("guidance_scale", wanted.guidance)):
            if setting == "guidance_scale" and not link.is_guidable:
                left_out[f"{link.name} against {setting}"] = "the stage has no condition to drop"
                continue
            if not values:
                left_out[f"{link.name} against {setting}"] = "no values were asked for"
            own = sorted({*values, getattr(link.settings, setting)}) if values else []
            for point in curve(link, batches, below, truth, setting=setting, values=own, seed=wanted.seed):
                say(f"{link.name}: {setting} {point.value:g}")
                yield point


def _each(
    last: StageReport, keys: tuple[str, ...], about: list[About], training: Training | None,
    near: Neighbours | None, near_true: Neighbours | None,
) -> list[Each]:  # fmt: skip
    match = matches(look(last.truth), look(last.pictures)).tolist()
    rows = []
    for side, pictures, own, scores in ((PAINTED, last.pictures, near, match), (TRUE, last.truth, near_true, None)):
        sharp, grainy = sharpness(pictures).tolist(), grain(pictures).tolist()
        for k, key in enumerate(keys):
            rows.append(
                Each(
                    side=side, key=key, caption=about[k].caption, group=str(about[k].facts.get("group", "")),
                    match=scores[k] if scores else None, sharpness=sharp[k], grain=grainy[k],
                    neighbour=training.keys[int(own.index[k])] if training and own else "",
                    distance=own.distance[k].item() if own else float("nan"),
                )
            )  # fmt: skip
    return rows
