"""Sections of a report's page that are curves: against aug_sigma on true and painted low_res, against steps and guidance."""

import math
from collections.abc import Iterator, Sequence
from html import escape

from cascade.judge.charts import Chart, Line
from cascade.judge.mismatch import PAINTED, TRUE, Row
from cascade.judge.page_parts import chart_figure, legend, note
from cascade.judge.report import Report, StageReport

PANELS = {  # of a Row: title, how to read it
    "swd": ("SWD, finest level", "lower is better"),
    "kid": ("KID by look", "lower is better"),
    "sharpness": ("Sharpness over the true", "1 is right"),
    "grain": ("Grain", "as the true pictures"),
    "consistency": ("Consistency with low_res, dB", "higher is better"),
    "psnr": ("PSNR, dB, on true low_res", "higher is better"),
}
BRIEF_PANELS = {  # of a Brief
    "swd": PANELS["swd"],
    "kid": PANELS["kid"],
    "match": ("Match", "1 at best, 0.5 by chance"),
    "sharpness": PANELS["sharpness"],
    "grain": PANELS["grain"],
}
SETTINGS = {"num_steps": "steps", "guidance_scale": "guidance"}
READING = "Grey band: what the manifest has. Dotted: the true pictures, or their halves. Bars are standard errors."


def over_levels(report: Report) -> Iterator[str]:
    """The mismatch: each super-resolution stage over aug_sigma, on true and on painted low_res."""
    if not report.rows:
        return
    yield note(
        "A super-resolution stage is trained on true pictures made small, and is given what the stage below painted. "
        "The aug_sigma that is best on the first need not be the best on the second."
    )
    yield legend(("true low_res", "painted low_res"))
    yield note(f"{READING} N = {report.rows[0].num:,} a point.")
    for stage in report.stages[1:]:
        rows = [row for row in report.rows if row.stage == stage.name]
        yield f'<h3>{escape(stage.name)}</h3><div class="charts">{"".join(_row_charts(stage, rows))}</div>'


def _row_charts(stage: StageReport, rows: Sequence[Row]) -> Iterator[str]:
    for field, (title, told) in PANELS.items():
        lines = [
            Line(
                name=f"{low_res} low_res",
                points=[
                    (row.aug_sigma, getattr(row, field), getattr(row, f"{field}_error"))
                    for row in rows
                    if row.low_res == low_res and _known(getattr(row, field))
                ],
            )
            for low_res in (TRUE, PAINTED)
        ]
        lines = [line for line in lines if line.points]
        if lines:
            chosen, level = stage.settings["aug_sigma"], _level(stage, field)
            yield chart_figure(Chart(title=title, x_name="aug_sigma", lines=lines, level=level, chosen=chosen), told)


def _known(value: float | None) -> bool:
    """Whether there is a value: pictures without a flat region have no grain, for instance."""
    return value is not None and math.isfinite(value)


def _level(stage: StageReport, field: str) -> float | None:
    """What the true pictures score, or chance, if that is known."""
    scores = next(iter(stage.scores.values())).scores
    levels = {"sharpness": 1.0, "kid": 0.0, "match": 0.5, "grain": scores["grain, real"], "swd": stage.swd_floor[0]}
    return level if _known(level := levels.get(field)) else None


def over_settings(report: Report) -> Iterator[str]:
    """Each stage over one of its settings at a time."""
    if not report.points:
        return
    yield note(f"One setting of one stage is changed at a time. {READING} N = {report.points[0].scores.num:,} a point.")
    for stage in report.stages:
        for setting, name in SETTINGS.items():
            charts = "".join(_setting_charts(report, stage, setting, name))
            if charts:
                yield f'<h3>{escape(stage.name)} against {name}</h3><div class="charts">{charts}</div>'


def _setting_charts(report: Report, stage: StageReport, setting: str, name: str) -> Iterator[str]:
    points = [point for point in report.points if (point.stage, point.setting) == (stage.name, setting)]
    for field, (title, told) in BRIEF_PANELS.items():
        values = [(point.value, getattr(point.scores, field)) for point in points]
        line = Line(name=stage.name, points=[(x, *value) for x, value in values if value and _known(value[0])])
        if line.points:
            chosen, level = stage.settings[setting], _level(stage, field)
            chart = Chart(title=title, x_name=name, lines=[line], level=level, chosen=chosen, even=True)
            yield chart_figure(chart, told)
