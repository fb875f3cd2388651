"""A picture that is too large for one network call, in windows that overlap; the answers are those of one call, up to rounding.

A network without self-attention sees no further than its reach. So the middle of a window, everything that is further than that
from the window's inner edges, does not know that there was a window. The sampler holds the whole picture and its one field of
noise; only the network's calls are divided. Each window is a question of its own: an engine answers others in between.
"""

import math
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace

import torch

from stages.config import UNetConfig
from stages.diffusion.samplers import Query
from stages.nets.unet import reach
from stages.sampling import Ask, Given, ask

from .link import Link

WINDOW = 1024  # px a side; a picture of more px than WINDOW squared is divided, if the stage's own is not as large
TOKENS = 8192  # pixels that self-attention compares with each other: 0.3 GB a head on a CPU

Span = tuple[slice, slice, slice]
"""Along one side: the window, what is taken of it, where in the picture that goes."""


@dataclass(frozen=True, kw_only=True)
class Tile:
    """Rows and columns."""

    rows: Span
    cols: Span


def answered(
    link: Link, query: Query, given: Given, window: int = WINDOW
) -> Generator[tuple[Link, Ask], torch.Tensor, torch.Tensor]:
    """x0_hat of a query: asks for it whole, or window by window."""
    size = (query.x.shape[-2], query.x.shape[-1])
    tiles = tiles_of(link, size, window)
    if len(tiles) == 1:
        return (yield link, ask(link.settings, query, given))
    x0_hat = torch.empty_like(query.x)
    for tile in tiles:
        part = (..., tile.rows[0], tile.cols[0])
        here = given if given.low_res is None else replace(given, low_res=given.low_res[part])
        answer = yield link, ask(link.settings, Query(query.x[part], query.sigma), here)
        x0_hat[..., tile.rows[2], tile.cols[2]] = answer[..., tile.rows[1], tile.cols[1]]
    return x0_hat


def tiles_of(link: Link, size: tuple[int, int], window: int = WINDOW) -> list[Tile]:
    """All of one shape, so that they share calls; a single one where the picture is small or self-attention sees all of it."""
    config = link.sidecar.config
    halo = reach(config.net)
    if halo is None or size[0] * size[1] <= max(window, config.resolution) ** 2:
        return [Tile(rows=whole(size[0]), cols=whole(size[1]))]
    side = math.ceil(max(window, 4 * halo) / config.multiple) * config.multiple
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
    config: UNetConfig = link.sidecar.config.net
    if not config.self_attention:
        return 0
    return TOKENS * (config.patch * 2 ** min(config.self_attention)) ** 2
