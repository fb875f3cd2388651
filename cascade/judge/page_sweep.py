"""The section of a report's page about a sweep: which settings were tried for each stage, their scores, and why one was taken."""

from collections import defaultdict
from collections.abc import Iterator
from html import escape
from typing import Any

from cascade.judge.charts import Chart, Line
from cascade.judge.page_curves import SETTINGS
from cascade.judge.page_parts import DASH, chart_figure, note, score_text, table
from cascade.judge.report import Report, StageReport
from cascade.judge.sweep_rule import LOWER
from cascade.judge.sweep_setup import setting_text
from cascade.manifest import Evidence, Tried
from stages.texts import as_values

AXES = SETTINGS | {"aug_sigma": "aug_sigma", "sigma_max": "sigma_max"}
FEWEST = 2  # points of a curve


def swept(report: Report) -> Iterator[str]:
    """What a sweep tried, stage by stage, as the manifest has it."""
    for stage in report.stages:
        evidence = report.evidence.get(stage.name)
        if evidence is not None:
            yield f"<h3>{escape(stage.name)}</h3>"
            yield from _stage(stage, evidence)


def _stage(stage: StageReport, evidence: Evidence) -> Iterator[str]:
    yield f"<p>{escape(_sentence(evidence.verdict))}.</p>"
    yield note(
        f"{len(evidence.tried):,} setups, each on the same {evidence.num:,} pictures of half {escape(evidence.half)} "
        f"({escape(evidence.halves)}) of split {escape(evidence.split)}, data <code>{escape(evidence.data[:12])}</code>, "
        f"with the same noise of seed {evidence.seed}. Rule: {escape(evidence.rule)}. Errors are of each score alone; two "
        "setups are compared by the error of their difference, which is smaller."
    )
    if half_life := evidence.tried[evidence.chosen].half_life:
        yield note(f"The weights are the average of half-life {half_life:,} images, which the sweep wrote.")
    elif evidence.weights != stage.sha256:
        yield note(
            f"<b>Of other weights.</b> The sweep judged <code>{escape(evidence.weights[:12])}</code>, the stage now has "
            f"<code>{escape(stage.sha256[:12])}</code>."
        )
    charts = "".join(_charts(evidence))
    if charts:
        yield f'<div class="charts">{charts}</div>'
        yield note("Curves: the setups that differ in nothing else. Grey band: the setup that was taken.")
    yield _tried(evidence)
    if evidence.bounds:
        yield note("The setup that was taken, on other input or with other weights:")
        yield table(
            ("", *_names(evidence)),
            [(escape(name), *_scores(evidence, scores)) for name, scores in evidence.bounds.items()],
        )


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:].replace(" +- ", " ± ").replace(" -", " \N{MINUS SIGN}")


def _names(evidence: Evidence) -> list[str]:
    return list(evidence.tried[0].scores)


def _scores(evidence: Evidence, scores: dict[str, tuple[float, float]]) -> list[str]:
    return [score_text(scores[name]) if name in scores else DASH for name in _names(evidence)]


def _tried(evidence: Evidence) -> str:
    """A row for each setup, in the order of the search; the one that was taken is marked."""
    rows = []
    for number, each in enumerate(evidence.tried):
        said = escape(_told(each))
        marks = " (before the sweep)" * (number == 0) + " (taken)" * (number == evidence.chosen)
        rows.append((f"<b>{said}</b>{marks}" if marks else said, f"{each.calls:,}", *_scores(evidence, each.scores)))
    return table(("setup", "calls a picture", *(f"{name}, {_way(name)}" for name in _names(evidence))), rows)


def _way(name: str) -> str:
    return "lower is better" if name in LOWER else "higher is better"


def _told(each: Tried) -> str:
    changes = each.settings | ({"half_life": each.half_life} if each.half_life else {})
    return ", ".join(f"{name} {setting_text(value)}" for name, value in changes.items()) or "as it was"


def _charts(evidence: Evidence) -> Iterator[str]:
    """For each setting that was varied, the score that decides over it."""
    deciding = _names(evidence)[0]
    taken = _whole(evidence, evidence.tried[evidence.chosen])
    for setting, name in AXES.items():
        others, points = _curve(evidence, setting)
        if len(points) < FEWEST:
            continue
        line = Line(name=deciding, points=[(x, *each.scores[deciding]) for x, each in sorted(points.items())])
        chosen = taken[setting] if others == _others(taken, setting) else None
        chart = Chart(title=deciding, x_name=name, lines=[line], chosen=chosen, even=True)
        yield chart_figure(chart, _way(deciding))


def _curve(evidence: Evidence, setting: str) -> tuple[tuple[Any, ...], dict[float, Tried]]:
    """The setups by their value of a setting, of those that differ in nothing else: the most values, then the taken one's."""
    groups: dict[tuple[Any, ...], dict[float, Tried]] = defaultdict(dict)
    for each in evidence.tried:
        whole = _whole(evidence, each)
        groups[_others(whole, setting)].setdefault(whole[setting], each)
    taken = _others(_whole(evidence, evidence.tried[evidence.chosen]), setting)
    return max(groups.items(), key=lambda item: (len(item[1]), item[0] == taken))


def _whole(evidence: Evidence, each: Tried) -> dict[str, Any]:
    """All settings of a setup."""
    return as_values(evidence.before) | each.settings | {"half_life": each.half_life}


def _others(whole: dict[str, Any], setting: str) -> tuple[Any, ...]:
    values = ((name, tuple(value) if isinstance(value, list) else value) for name, value in whole.items())
    return tuple(sorted((item for item in values if item[0] != setting), key=lambda item: item[0]))
