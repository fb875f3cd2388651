"""Sections of a report's page that are pictures: samples, stages, nearest training pictures, the worst."""

from collections.abc import Iterator
from html import escape

from cascade.judge.charts import number
from cascade.judge.each import mean_error
from cascade.judge.page_parts import image, note, picture_figure, score_text
from cascade.judge.report import Report

SAMPLES, STRIPS, NEIGHBOURS, WORST = 24, 6, 12, 8  # pictures shown


def _caption(report: Report, k: int) -> str:
    return report.captions[k] or report.keys[k]


def _pair(report: Report, k: int, told: str) -> str:
    """Sample and truth side by side under the caption."""
    last, caption = report.stages[-1], _caption(report, k)
    images = image(last.pictures[k], f"sample: {caption}"), image(last.truth[k], f"true: {caption}")
    return picture_figure(images, caption, told)


def _spread(report: Report, most: int) -> list[int]:
    """At most so many positions, evenly spaced."""
    total = len(report.keys)
    num = min(most, total)
    return [k * total // num for k in range(num)]


def samples(report: Report) -> Iterator[str]:
    """Samples beside the true pictures of their conditions."""
    chosen = _spread(report, SAMPLES)
    yield note(
        f"Sample left, true picture of its condition right: {len(chosen)} of {len(report.keys):,}, evenly spaced, not chosen."
    )
    pairs = (_pair(report, k, f"match {number(report.painted[k].match or 0)}") for k in chosen)
    yield f'<div class="grid">{"".join(pairs)}</div>'


def strip(report: Report) -> Iterator[str]:
    """Every stage of a few samples."""
    names = [f"{escape(stage.name)}, {stage.resolution} px" for stage in report.stages]
    yield note(f"From left to right: {'; '.join(names)}; the true picture.")
    figures = []
    for k in _spread(report, STRIPS):
        caption = _caption(report, k)
        images = [image(stage.pictures[k], f"{stage.name}: {caption}") for stage in report.stages]
        figures.append(picture_figure((*images, image(report.stages[-1].truth[k], f"true: {caption}")), caption))
    yield f'<div class="strip">{"".join(figures)}</div>'


def nearest(report: Report) -> Iterator[str]:
    """The samples that are nearest to a training picture."""
    near, training = report.near, report.training
    if near is None or training is None or report.near_true is None:
        return
    whole = len(training.keys) == training.total
    part = f"all {training.total:,}" if whole else f"the first {len(training.keys):,} of {training.total:,}"
    yield (
        "<p>A sample is nearer to its nearest training picture than a training picture to its nearest other one with chance "
        f"{score_text(mean_error(near.nearer))}: 0.5 for new pictures, 1 for copies. For the held-out true pictures it is "
        f"{score_text(mean_error(report.near_true.nearer))}. Compared with {part} pictures of split train of these data.</p>"
    )
    order = near.distance.argsort()[:NEIGHBOURS].tolist()
    yield note(
        f"The {len(order)} nearest, sample left, training picture right; RMS difference at 16 px in levels of 255."
    )
    figures = []
    for k in order:
        images = (
            image(report.stages[-1].pictures[k], f"sample: {_caption(report, k)}"),
            image(training.thumbnails[near.index[k]], f"training picture {training.keys[int(near.index[k])]}"),
        )
        told = f"{number(near.distance[k].item())}; the training picture's own nearest: {number(near.own[k].item())}"
        figures.append(picture_figure(images, _caption(report, k), told))
    yield f'<div class="grid">{"".join(figures)}</div>'


def worst(report: Report) -> Iterator[str]:
    """The samples at the bad end of each number."""
    rows = dict(enumerate(report.painted))
    apart = {k: row.match for k, row in rows.items() if row.match is not None and row.match < 1}
    grainy = {k: -row.grain for k, row in rows.items() if row.grain == row.grain}
    soft = {k: row.sharpness for k, row in rows.items()}
    for title, field, values in (
        ("Least like their own true picture", "match", apart), ("Grainiest", "grain", grainy), ("Softest", "sharpness", soft),
    ):  # fmt: skip
        order = sorted(values, key=values.__getitem__)[:WORST]
        figures = "".join(_pair(report, k, f"{field} {number(getattr(rows[k], field))}") for k in order)
        yield f"<h3>{title}</h3>"
        yield f'<div class="grid">{figures}</div>' if order else note("None: each is nearest to its own true picture.")
