"""Tiling: answers for a picture too large for one network call, from overlapping windows; equal to one call up to rounding.

The receptive field of a network without self-attention has a finite radius, and so has what its parametrisation reads: together the
stage's reach. So its answer in the middle of a window, further than the reach from the window's inner edges, does not depend on the
window. The sampler holds the whole picture and one field of noise; only the network calls are divided. Each window is an ask of its
own, and an engine may answer others in between.
"""

import math
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace

import torch

from stages.ask import Ask
from stages.diffusion.samplers import Answer, Query
from stages.guidance import Guidance

from ..link import Link
from .host import Asks, addressed

WINDOW = 1024  # cells a side; an x0 of more than WINDOW squared is divided, unless the stage's own is as large
TOKENS = 8192  # most positions in self-attention: 0.3 GB a head on a CPU

Span = tuple[slice, slice, slice]
"""Along one axis: the window in the picture, the part of the window's answer that is kept, and its position in the picture."""


@dataclass(frozen=True, kw_only=True)
class Tile:
    """A window of a picture: its spans along rows and columns."""

    rows: Span
    cols: Span


def answered(link: Link, rule: Guidance, query: Query, window: int = WINDOW) -> Generator[Asks, list[Answer], Answer]:
    """The answer to a query, asked as a whole or, if large, window by window."""
    asks = addressed(rule.asks(query), link.hosts)
    tiles = tiles_of(link, (query.x.shape[-2], query.x.shape[-1]), window)
    if len(tiles) == 1:
        return rule.combine(query, (yield asks))
    wholes = [Answer(torch.empty_like(ask.query.x)) for _, ask in asks]
    for tile in tiles:
        parts = yield [(host, cut(ask, tile)) for host, ask in asks]
        wholes = [pasted(whole, part, tile) for whole, part in zip(wholes, parts, strict=True)]
    return rule.combine(query, wholes)


def cut(ask: Ask, tile: "Tile") -> Ask:
    """The ask restricted to the window of a tile: x, and low_res, maps and position, which have the same size."""
    window = (..., tile.rows[0], tile.cols[0])
    spatial = {name: part for name, part in ask.cond.parts.items() if name in ("low_res", "maps", "position")}
    windows = {name: replace(part, value=part.value[window]) for name, part in spatial.items()}
    cond = replace(ask.cond, parts={**ask.cond.parts, **windows})
    return replace(ask, query=replace(ask.query, x=ask.query.x[window]), cond=cond)


def pasted(answer: Answer, part: Answer, tile: Tile) -> Answer:
    """Write the kept part of a tile's answer into the whole answer, x0_hat in place. Returns the whole answer."""
    target, kept = (..., tile.rows[2], tile.cols[2]), (..., tile.rows[1], tile.cols[1])
    answer.x0_hat[target] = part.x0_hat[kept]
    if part.var is not None:
        var = torch.empty_like(answer.x0_hat) if answer.var is None else answer.var
        var[target] = part.var[kept]
        answer = replace(answer, var=var)
    return answer


def tiles_of(link: Link, size: tuple[int, int], window: int = WINDOW) -> list[Tile]:
    """The tiles of a picture, all of one shape, so that they can share calls; a single one if x0 is small, or if self-attention
    sees all of it. size: the last two axes of x0; everything here is measured in its cells."""
    config = link.sidecar.config
    halo, cells = config.reach, config.multiple // config.space.scale
    if halo is None or size[0] * size[1] <= max(window, *config.size[-2:]) ** 2:
        return [Tile(rows=whole(size[0]), cols=whole(size[1]))]
    side = math.ceil(max(window, 4 * halo) / cells) * cells
    rows, cols = (list(spans(length, side, halo)) for length in size)
    return [Tile(rows=row, cols=col) for row in rows for col in cols]


def whole(length: int) -> Span:
    """The span of a window that covers everything."""
    return slice(0, length), slice(0, length), slice(0, length)


def spans(length: int, side: int, halo: int) -> Iterator[Span]:
    """Windows of `side` cells that cover `length`; the kept part is `halo` cells away from edges that are not the picture's."""
    if length <= side:
        yield whole(length)
        return
    done = 0
    while done < length:
        start = min(max(done - halo, 0), length - side)
        end = length if start == length - side else start + side - halo
        yield slice(start, start + side), slice(done - start, end - start), slice(done, end)
        done = end


def most_pixels(link: Link) -> int:
    """Most px that self-attention allows a stage's picture; 0 without self-attention, where only memory and time limit it."""
    config = link.sidecar.config
    attended = config.net.attended
    return TOKENS * attended**2 * math.prod(config.gives) // math.prod(config.size) if attended else 0
