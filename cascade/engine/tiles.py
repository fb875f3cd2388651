"""A picture that is too large for one network call, in windows that overlap; the answers are those of one call, up to rounding.

A network without self-attention sees no further than its reach. So the middle of a window, everything that is further than that
from the window's inner edges, does not know that there was a window. The sampler holds the whole picture and its one field of
noise; only the network's calls are divided. Each window is a question of its own: an engine answers others in between.
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

WINDOW = 1024  # px a side; a picture of more px than WINDOW squared is divided, if the stage's own is not as large
TOKENS = 8192  # pixels that self-attention compares with each other: 0.3 GB a head on a CPU

Span = tuple[slice, slice, slice]
"""Along one side: the window, what is taken of it, where in the picture that goes."""


@dataclass(frozen=True, kw_only=True)
class Tile:
    """Rows and columns."""

    rows: Span
    cols: Span


def answered(link: Link, rule: Guidance, query: Query, window: int = WINDOW) -> Generator[Asks, list[Answer], Answer]:
    """The answer to a query: its asks are asked whole, or window by window."""
    asks = addressed(rule.asks(query), link.hosts)
    tiles = tiles_of(link, (query.x.shape[-2], query.x.shape[-1]), window)
    if len(tiles) == 1:
        return rule.combine(query, (yield asks))
    wholes = [Answer(torch.empty_like(ask.query.x)) for _, ask in asks]
    for tile in tiles:
        found = yield [(host, cut(ask, tile)) for host, ask in asks]
        wholes = [pasted(whole, part, tile) for whole, part in zip(wholes, found, strict=True)]
    return rule.combine(query, wholes)


def cut(ask: Ask, tile: "Tile") -> Ask:
    """An ask for the window of a tile: of x, and of what has x's size beside it."""
    part = (..., tile.rows[0], tile.cols[0])
    low_res = ask.cond.value("low_res")
    cond = ask.cond if low_res is None else ask.cond.given(low_res=low_res[part])
    return replace(ask, query=replace(ask.query, x=ask.query.x[part]), cond=cond)


def pasted(answer: Answer, part: Answer, tile: Tile) -> Answer:
    """The answer with what is taken of a tile's written into it."""
    to, taken = (..., tile.rows[2], tile.cols[2]), (..., tile.rows[1], tile.cols[1])
    answer.x0_hat[to] = part.x0_hat[taken]
    if part.var is not None:
        var = torch.empty_like(answer.x0_hat) if answer.var is None else answer.var
        var[to] = part.var[taken]
        answer = replace(answer, var=var)
    return answer


def tiles_of(link: Link, size: tuple[int, int], window: int = WINDOW) -> list[Tile]:
    """All of one shape, so that they share calls; a single one where x0 is small or self-attention sees all of it. size: of the
    last two axes of x0, in whose cells all of this counts."""
    config = link.sidecar.config
    halo = config.net.reach
    if halo is None or size[0] * size[1] <= max(window, *config.size[-2:]) ** 2:
        return [Tile(rows=whole(size[0]), cols=whole(size[1]))]
    side = math.ceil(max(window, 4 * halo) / config.net.multiple) * config.net.multiple
    rows, cols = (list(spans(length, side, halo)) for length in size)
    return [Tile(rows=row, cols=col) for row in rows for col in cols]


def whole(length: int) -> Span:
    return slice(0, length), slice(0, length), slice(0, length)


def spans(length: int, side: int, halo: int) -> Iterator[Span]:
    """Windows of `side` px that cover `length` px; what is taken is `halo` px away from edges that are not the picture's."""
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
    """Of a stage's picture, by its self-attention; 0 where nothing but memory and time limit it."""
    config = link.sidecar.config
    attended = config.net.attended
    return TOKENS * attended**2 * math.prod(config.gives) // math.prod(config.size) if attended else 0
