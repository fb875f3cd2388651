"""Parts of a report's page: tables, numbers with their errors, pictures, charts in frames, a legend."""

import base64
import io
import math
from collections.abc import Sequence
from html import escape

from torch import Tensor

from cascade.judge.charts import SHAPES, Chart, fixed, mark, number
from cascade.judge.painted import at_size
from data.alpha import to_image

DASH = "\N{EN DASH}"
THUMBNAIL = 128  # px: larger pictures are shown at this side


def score_text(value: tuple[float, float] | None) -> str:
    """A score with its standard error, both to the error's second digit."""
    if value is None:
        return DASH
    score, error = value
    if error != error or not error:
        return number(score)
    places = max(0, 1 - math.floor(math.log10(error)))
    return f"{fixed(score, places)} <small>± {fixed(error, places)}</small>"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], words: Sequence[int] = ()) -> str:
    """A table that scrolls where it is too wide. head, cells: HTML; words: columns of text that wraps."""
    kind = ["words" if column in words else "" for column in range(len(head))]
    cell = [f' class="{each}"' if each else "" for each in kind]
    top = "".join(f"<th{own}>{name}</th>" for name, own in zip(head, cell, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{own}>{value}</td>" for value, own in zip(row, cell, strict=True)) + "</tr>"
        for row in rows
    )
    head_row = f"<thead><tr>{top}</tr></thead>" if any(head) else ""
    return f'<div class="scroll" tabindex="0"><table>{head_row}<tbody>{body}</tbody></table></div>'


def image(picture: Tensor, alt: str) -> str:
    """uint8 (3, h, w) as an <img>, shrunk to THUMBNAIL px a side."""
    side = max(picture.shape[1:])
    if side > THUMBNAIL:
        picture = at_size(picture[None], tuple(max(1, each * THUMBNAIL // side) for each in picture.shape[1:]))[0]
    content = io.BytesIO()
    to_image(picture).save(content, "PNG", optimize=True)
    return f'<img alt="{escape(alt)}" src="data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}">'


def note(text: str) -> str:
    """A paragraph that explains; text is HTML."""
    return f'<p class="soft">{text}</p>'


def picture_figure(images: Sequence[str], caption: str, told: str = "") -> str:
    """Pictures side by side under a caption."""
    told = f" {escape(told)}" if told else ""
    return f'<figure><div class="pair">{"".join(images)}</div><figcaption><b>{escape(caption)}</b>{told}</figcaption></figure>'


def legend(names: Sequence[str]) -> str:
    """The marks of the lines of charts."""
    marks = "".join(
        f'<li><svg viewBox="0 0 26 14" class="line{k}"><path d="M1 7H25"/>{mark(shape, 13, 7, "")}</svg>{escape(name)}</li>'
        for k, (name, shape) in enumerate(zip(names, SHAPES, strict=False))
    )
    return f'<ul class="legend">{marks}</ul>'


def chart_figure(chart: Chart, told: str) -> str:
    """A chart under its title and how to read it."""
    return f"<figure><figcaption>{escape(chart.title)} <span>· {escape(told)}</span></figcaption>{chart.svg()}</figure>"
