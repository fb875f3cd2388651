"""Sections of a report's page that are tables: scores, where a fault is, groups, what is missing, how it was measured."""

from collections.abc import Iterator
from html import escape
from typing import Any

from cascade.judge.brief import Brief
from cascade.judge.charts import number
from cascade.judge.identity import judge_sha256
from cascade.judge.local import CAPTIONS, FID, LPIPS
from cascade.judge.look import LOOK
from cascade.judge.page_parts import DASH, note, score_text, table
from cascade.judge.report import Report, StageReport
from data.resize import RESIZE_VERSION

HALVES = "two halves of the true pictures, of other conditions and at half the N: far above it, this scale is wrong"
NEVER = (
    ("inception", FID, "FID, IS", "no file of Inception was given (--inception); the ruler here needs none"),
    ("lpips", LPIPS, LPIPS, "no files of LPIPS were given (--lpips)"),
    (
        "encoder", CAPTIONS, "match by an image-text encoder",
        "none was given (--encoder); the match here is by the true picture of the condition",
    ),
)  # fmt: skip
"""A network, its first measure, what it would measure, and why it does not."""
COLUMNS = {"match": "match", "sharpness": "high-pass", "grain": "grain", "distance": "nearest training, levels"}
ScoreRow = tuple[str, str, str, str]
"""Measure, score, what stands beside it, and what that is."""


def scores(report: Report) -> Iterator[str]:
    """The scores of each stage, on each background."""
    head = "measure", "painted", "beside it", "what that is, and how to read it"
    for stage in report.stages:
        for background, found in stage.scores.items():
            size = f"{stage.resolution} px, on {escape(background)}, N = {found.num_generated:,} a side"
            yield f"<h3>{escape(stage.name)}, {size}</h3>"
            of_pictures = _of_pictures(stage, background, found.scores)
            yield table(head, [*_of_sets(found.scores), *of_pictures, *_of_networks(found.scores)], [3])
            if found.left_out:
                yield note(f'Refused: {escape("; ".join(found.left_out))}. <a href="#what-is-not-here">Why</a>')


def _of_sets(scores: dict[str, Any]) -> Iterator[ScoreRow]:
    """Scores of a set by the ruler, where there are pictures enough."""
    if "KID" not in scores:
        return
    told = f"mean of two draws of the true pictures. Decides: unbiased at any N. By {LOOK.name}"
    yield "KID", score_text((scores["KID"], scores["KID, standard error"])), "0", told
    floor = next((item for item in scores.items() if item[0].startswith("FD of halves")), None)
    told = f"halves of the true pictures, {floor[0].rpartition(', ')[2]}" if floor else "no floor: too few pictures"
    for name in (name for name in scores if name.startswith("FD at N")):
        yield name, number(scores[name]), number(floor[1]) if floor else DASH, f"{told}. Biased upwards, by 1 / N"
    if "FD at infinite N" in scores:
        yield "FD at infinite N", number(scores["FD at infinite N"]), "0", "for a perfect system; by a line in 1 / N"
    for name, told in (("precision", "samples among the true pictures"), ("recall", "true pictures among the samples")):
        half = scores.get(f"{name} of halves")
        told = f"{'halves of the true pictures' if half is not None else 'no floor: too few pictures'}. Share of {told}"
        yield name, number(scores[name]), number(half) if half is not None else DASH, told
    yield (
        "density",
        number(scores["density"]),
        "1",
        "for a perfect system; above it, samples crowd where pictures are common",
    )
    told = "of two draws of one law, closed form. Share of true pictures with a sample nearby"
    yield "coverage", number(scores["coverage"]), number(scores["coverage of two draws of one law"]), told


def _of_pictures(stage: StageReport, background: str, scores: dict[str, Any]) -> Iterator[ScoreRow]:
    """Scores that any number of pictures have."""
    brief = stage.briefs[background]
    yield "match", score_text(brief.match), "0.5", "by chance, and for shuffled conditions; 1 is right"
    yield "sharpness over the true", score_text(brief.sharpness), "1", "less is blur, more is noise or ringing"
    yield "grain in flat regions", score_text(brief.grain), number(scores["grain, real"]), "of the true pictures"
    yield "SWD, finest level", score_text(brief.swd), score_text(stage.swd_floors[background]), HALVES
    floors = scores["SWD of halves of the real"]
    for level, value in list(enumerate(scores["SWD by level, finest first"]))[1:]:
        yield f"SWD, level {level + 1}", number(value), number(floors[level]), HALVES
    sides = scores["colour drift, mean (levels)"], scores["colour drift of halves, mean"]
    drift, floor = (" ".join(number(round(each, 2)) for each in side) for side in sides)
    yield "colour drift, R G B", drift, floor, "two halves of the true pictures; levels of 255, painted minus true"


def _of_networks(scores: dict[str, Any]) -> Iterator[ScoreRow]:
    """Scores by published networks, where their files were at hand."""
    for name in (name for name in scores if name.startswith("LPIPS, ") and name.endswith("pairs")):
        value = scores[name], scores["LPIPS, standard error"]
        yield "LPIPS", score_text(value), "0", "for equal pictures; of a sample and the true picture of its condition"
    for name in (name for name in scores if name.startswith("caption ") and name.endswith(", generated")):
        what = name.removesuffix(", generated")
        told = f"of the true pictures; under shuffled captions {score_text(scores[f'{name}, shuffled'])}"
        yield what, score_text(scores[name]), score_text(scores.get(f"{what}, real")), told
    for name in (name for name in scores if name.startswith("FID at N")):
        floor = next((scores[each] for each in scores if each.startswith("FID of halves")), None)
        yield name, number(scores[name]), DASH if floor is None else number(floor), "halves of the true pictures"
    if "IS, generated" in scores:
        yield "IS", number(scores["IS, generated"]), number(scores["IS, real"]), "of the true pictures"


def fault(report: Report) -> Iterator[str]:
    """Each stage on painted and on true low_res."""
    rows = []
    for stage in report.stages:
        name = escape(stage.name)
        rows.append((name, "what the stage below painted" if stage.ideal else DASH, *_cells(stage.brief)))
        if stage.ideal:
            rows.append((name, "true, made small", *_cells(stage.ideal)))
    if len(rows) > 1:
        yield note(
            "A stage that is as good on painted low_res as on true low_res inherits no fault; what is wrong on true low_res, too, "
            "is its own. Both rows have the same conditions and the same noise."
        )
    yield table(("stage", "low_res", "N", "match", "sharpness", "grain", "SWD finest", "KID"), rows, [1])


def _cells(brief: Brief) -> tuple[str, ...]:
    scores = brief.match, brief.sharpness, brief.grain, brief.swd, brief.kid
    return f"{brief.num:,}", *(score_text(each) for each in scores)


def groups(report: Report) -> Iterator[str]:
    """The numbers of the last stage's pictures by each fact of the data that groups them."""
    for name, values in report.by_group().items():
        known = [key for key in COLUMNS if all(key in numbers for numbers in values.values())]
        ordered = sorted(values.items(), key=lambda item: item[1]["match"][0])
        rows = [
            (escape(value) or DASH, f"{own['num']:,}", *(score_text(own[key]) for key in known))
            for value, own in ordered
        ]
        yield f"<h3>by {escape(name)}, the worst match first</h3>"
        yield table((escape(name), "N", *(COLUMNS[key] for key in known)), rows)


def missing(report: Report) -> Iterator[str]:
    """What could not be measured, and why."""
    reasons = dict(report.left_out)
    for stage in report.stages:
        for found in stage.scores.values():
            reasons |= {f"{stage.name}: {name}": why for name, why in found.left_out.items()}
    all_found = [found for stage in report.stages for found in stage.scores.values()]
    asked_for = {name for found in all_found for name in (*found.weights, *found.left_out)}
    reasons |= {name: why for network, measure, name, why in NEVER if not asked_for & {network, measure}}
    lines = "".join(f"<li><b>{escape(name)}</b>: {escape(why)}</li>" for name, why in reasons.items())
    yield f'<ul class="left-out">{lines}</ul>'


def how(report: Report) -> Iterator[str]:
    """All that the numbers depend on."""
    rows = [
        (
            escape(stage.name),
            f"{stage.nimg:,}",
            f"<code>{stage.sha256[:12]}</code>",
            f"<code>{escape(stage.trained_on[:12])}</code>",
            escape(", ".join(f"{name} {value}" for name, value in stage.settings.items())),
        )
        for stage in report.stages
    ]
    yield table(("stage", "images seen", "weights", "trained on", "settings"), rows, [4])
    wanted = report.wanted
    data = f"{escape(report.data)}, fingerprint <code>{report.fingerprint[:12]}</code>, split {escape(wanted.split)}"
    facts = {
        "data": data,
        "pictures": f"{len(report.keys):,}; in curves {min(wanted.num_curve, len(report.keys)):,}",
        "seed": str(wanted.seed),
        "resize": RESIZE_VERSION,
        "background": escape(" and ".join(report.stages[-1].scores)),
        "ruler": f"{LOOK.name}, <code>{LOOK.sha256[:12]}</code>",
        "judge": f"<code>{judge_sha256()[:12]}</code>: a hash of the code that measures; numbers of another one may not compare",
    }
    yield table(("", ""), list(facts.items()), [1])
