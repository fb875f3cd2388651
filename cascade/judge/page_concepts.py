"""The section of a report's page about things and styles: rates with their intervals, and a table of samples beside the truth."""

from collections.abc import Iterator, Sequence
from html import escape

from cascade.judge.concepts import AMONG, Line
from cascade.judge.intervals import Rate
from cascade.judge.page_parts import DASH, image, note, table
from cascade.judge.report import Report
from cascade.judge.report_concepts import Cell, Concepts

VERDICTS = {
    (True, True): "both right",
    (True, False): "right thing",
    (False, True): "right style",
    (False, False): "neither",
}
FORMS = {
    "A": "form A, which never saw a hidden drawing: for choosing",
    "B": "form B, which knows all true drawings: for reporting",
}


def things(report: Report) -> Iterator[str]:
    """Right thing, right style, both; beside the ceiling, copies and shuffled captions; by fact; and the table."""
    found = report.concepts
    if found is None:
        return
    told = (
        f"Judged by {escape(FORMS[found.form])}, at {found.size} px. Right thing: no other thing of that style is nearer. "
        "Brackets: intervals of 95 %. Beside the pictures stand the true ones of these questions, which are the ceiling; drawings "
        "of the same thing in the other styles; the drawing of the nearest caption in the right style; and these pictures under "
        "shuffled captions."
    )
    yield note(told)
    yield _rates("", found.lines)
    if found.told:
        yield note(f"Styles right: {escape(found.told)}: the ruler is itself wrong about some styles of true pictures.")
    for name, lines in found.parts.items():
        yield f"<h3>by {escape(name)}</h3>"
        yield _rates(name, lines)
    if found.table:
        yield "<h3>Things in all styles</h3>"
        yield from _cells(found)


def _rates(name: str, lines: Sequence[Line]) -> str:
    head = escape(name), "N", "right thing", f"of {AMONG}", "right style", "both"
    rows = [
        (
            escape(each.name), f"{each.num:,}", _rate(each.concept), f"{each.among:.2f}" if each.num else DASH,
            _rate(each.style), _rate(each.both),
        )
        for each in lines
    ]  # fmt: skip
    return table(head, rows)


def _rate(rate: Rate) -> str:
    return f"{rate.share:.2f} <small>[{rate.low:.2f}, {rate.high:.2f}]</small>" if rate.num else DASH


def _cells(found: Concepts) -> Iterator[str]:
    """A row for each thing, a column for each style."""
    yield note(
        "Sample left, true drawing right: one sample each, things evenly spaced, not chosen. Framed: this drawing was "
        "hidden from training. Below: what the ruler finds."
    )
    head = ("", *map(escape, found.styles))
    rows = [
        (escape(name), *(_cell(cell, f"{name}, {style}") for cell, style in zip(cells, found.styles, strict=True)))
        for name, cells in found.table
    ]
    yield f'<div class="things">{table(head, rows)}</div>'


def _cell(cell: Cell, name: str) -> str:
    if cell.sample is None or cell.thing is None or cell.style is None:
        return DASH
    truth = image(cell.truth, f"true: {name}") if cell.truth is not None else "<span>not in these data</span>"
    kind = "cell hidden" if cell.hidden else "cell"
    said = VERDICTS[cell.thing, cell.style] + (", hidden" if cell.hidden else "")
    pair = f'<div class="pair">{image(cell.sample, f"sample: {name}")}{truth}</div>'
    return f'<div class="{kind}">{pair}<small>{said}</small></div>'
