"""How pictures of the cascade that ships come about: rows of prompts, columns of network calls, from the first noise to 256 px.

    python tests/bench/gallery.py --out out/gallery.webp
    python tests/bench/gallery.py --out out/gallery.webp --data shards/styles_64        no caption there is one of the prompts

A cell is x0_hat after a call, what the network expects the picture to become, on white: 16 and 64 px enlarged by whole factors, so
that their pixels are seen, 256 px halved. ROWS were chosen by hand from thirty prompts, to show what goes well and what does not;
each is the first picture of its prompt and seed.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from cascade.events import Preview
from cascade.first_minutes import SHIPPED
from cascade.pipeline import Cascade
from cascade.request import Request
from data.alpha import on_background
from data.cli import run
from data.files import replace_bytes
from data.line import say

SIDE, GAP, LINE, MARGIN = 128, 8, 24, 14  # px: of a cell, between cells, of a line of text, around all
GOOD, BAD = "Words put together as no caption of training had them", "... and where that fails"
SHOWN = (0.0, 0.55, 0.75, 1.0)  # shares of the first stage's calls; before half of them little changes
INK, GREY, RULE = (30, 30, 30), (110, 110, 110), (222, 222, 222)


@dataclass(frozen=True, kw_only=True)
class Row:
    """A prompt in a style; told: what is wrong with its picture, "" if nothing is."""

    prompt: str
    style: str
    told: str = ""


ROWS = (
    Row(prompt="purple apple", style="noto"),
    Row(prompt="blue mushroom", style="fluent 3d"),
    Row(prompt="red guitar", style="twemoji"),
    Row(prompt="yellow umbrella", style="noto", told="not yellow"),
    Row(prompt="two red apples", style="noto", told="one apple"),
    Row(prompt="crying robot", style="twemoji", told="neither a robot nor tears"),
)


def shown(nfe: int, is_first: bool, is_last: bool) -> list[int]:
    """The calls of a stage that are shown, numbered from 1: of the last stage its last; else the first, too, and of the first stage
    some between."""
    shares = SHOWN if is_first else (1.0,) if is_last else (0.0, 1.0)
    return sorted({max(1, round(share * nfe)) for share in shares})


def painted(model: Cascade, rows: Sequence[Row], seed: int) -> dict[tuple[str, int, int], Tensor]:
    """x0_hat of every call that is shown: by (stage, call, number of calls), uint8 (rows, 3, h, w) on white."""
    labels = model.conditions.numbers([row.style for row in rows], "style")
    request = Request(
        prompts=tuple(row.prompt for row in rows), labels=labels, seed=seed, batch=len(rows), same_noise=True
    )
    parts: dict[tuple[str, int, int], dict[int, Tensor]] = defaultdict(dict)
    for event in model.sample(request):
        if not isinstance(event, Preview):
            continue
        if event.step in shown(event.nfe, event.stage == model.names[0], event.stage == model.names[-1]):
            pictures = on_background(event.images)
            for k, picture in zip(event.index, pictures, strict=True):
                parts[event.stage, event.step, event.nfe][k] = picture
    return {place: torch.stack([found[k] for k in range(len(rows))]) for place, found in parts.items()}


def cell(picture: Tensor) -> Image.Image:
    """A picture uint8 (3, h, w) at SIDE: pixels repeated, or their means."""
    image = Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy())
    small = image.width < SIDE
    return image.resize((SIDE, SIDE), Image.Resampling.NEAREST if small else Image.Resampling.BOX)


def sheet(rows: Sequence[Row], cells: dict[tuple[str, int, int], Tensor]) -> Image.Image:
    """The whole picture: the rows that go well, then those that do not, each under a title; text above columns and rows."""
    order = sorted(range(len(rows)), key=lambda k: bool(rows[k].told))
    titles = {next((k for k in order if bool(rows[k].told) == is_bad), -1): (GOOD, BAD)[is_bad] for is_bad in (0, 1)}
    width = 2 * MARGIN + len(cells) * (SIDE + GAP) - GAP
    height = 2 * MARGIN + 2 * LINE + sum(2 * LINE for k in titles if k >= 0) + len(rows) * (SIDE + LINE + GAP) - GAP
    image = Image.new("RGB", (width, height), "white")
    draw, large, bold, plain = ImageDraw.Draw(image), *(ImageFont.load_default(size) for size in (18, 15, 13))
    top = MARGIN
    for column, (stage, call) in enumerate(_heads(cells)):
        left = MARGIN + column * (SIDE + GAP)
        draw.text((left, top), stage, INK, bold)
        draw.text((left, top + LINE - 5), call, GREY, plain)
    top += 2 * LINE
    for k in order:
        if k in titles:
            draw.text((MARGIN, top + 12), titles[k], INK, large)
            top += 2 * LINE
        row = rows[k]
        draw.line((MARGIN, top - 4, width - MARGIN, top - 4), RULE)
        draw.text((MARGIN, top), row.prompt, INK, bold)
        after = MARGIN + draw.textlength(row.prompt, bold) + 10
        draw.text((after, top + 2), f"{row.style}{f': {row.told}' if row.told else ''}", GREY, plain)
        for column, pictures in enumerate(cells.values()):
            image.paste(cell(pictures[k]), (MARGIN + column * (SIDE + GAP), top + LINE))
        top += SIDE + LINE + GAP
    return image


def _heads(cells: dict[tuple[str, int, int], Tensor]) -> Iterator[tuple[str, str]]:
    """The two lines above each column: the stage with its size where it begins, and the call."""
    before = ""
    for (stage, call, nfe), pictures in cells.items():
        yield "" if stage == before else f"{stage}, {pictures.shape[-1]} px", f"call {call} of {nfe}"
        before = stage


def check_new(rows: Sequence[Row], data: str) -> int:
    """The number of captions of the training split, none of which is a prompt of ROWS. Raises ValueError."""
    from cascade.judge.about import read_about

    captions = {about.caption.casefold() for about in read_about(data, "train").values()}
    if known := [row.prompt for row in rows if row.prompt.casefold() in captions]:
        raise ValueError(f"--data {data}: has the caption {known[0]!r}; choose another prompt for ROWS")
    return len(captions)


def main(
    out: Annotated[Path, typer.Option(help="the picture: .webp or .png")],
    cascade: Annotated[Path, typer.Option(help="one that takes captions and styles")] = SHIPPED,
    data: Annotated[str, typer.Option(help="shards with training captions: checks that no prompt is one")] = "",
    seed: Annotated[int, typer.Option(help="of sampling")] = 0,
    quality: Annotated[int, typer.Option(help="of WebP")] = 92,
) -> None:
    import io

    torch.set_flush_denormal(True)
    if data:
        say(f"{check_new(ROWS, data):,} training captions, none of them a prompt here")
    file = io.BytesIO()
    image = sheet(ROWS, painted(Cascade.load(cascade), ROWS, seed))
    image.save(file, out.suffix[1:].upper(), quality=quality, method=6, use_sharp_yuv=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    replace_bytes(out, file.getvalue())
    say(f"{out}: {image.width} x {image.height} px, {len(file.getvalue()) / 1e3:.0f} kB")


if __name__ == "__main__":
    run(main)
