"""Direction: one difference that guidance adds to a stage's own answer; and one that is computed only every few calls."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from data.batch import Cond

from ..ask import NamedAsks
from ..diffusion.samplers import Answer, Query


class Direction(Protocol):
    """A difference, made for one chunk of images. rows: positions in a query."""

    def active(self, query: Query) -> list[int]:
        """The rows of a query that it changes."""
        ...

    def due(self, query: Query) -> list[int]:
        """Those of the active rows that need asks."""
        ...

    def asks(self, query: Query, cond: Cond, rows: Sequence[int]) -> NamedAsks:
        """The asks of these rows, each with the name of its host. cond: of all rows of the query."""
        ...

    def guided(
        self, query: Query, x0_hat: Tensor, own: Tensor, answers: Iterator[Answer], rows: Sequence[int]
    ) -> Tensor:
        """x0_hat with the difference added in these rows, in new memory. own: the stage's own answer. answers: those to `asks` come
        next; it takes them and no more."""
        ...


def images_of(query: Query) -> list[int]:
    """The images of a query's rows, by their position in the chunk."""
    return list(range(len(query.x))) if query.rows is None else query.rows.tolist()


def part_of(query: Query, rows: Sequence[int]) -> Query:
    """The query of some of its rows; itself, if of all."""
    if len(rows) == len(query.x):
        return query
    positions = torch.tensor(rows, device=query.x.device)
    images = torch.tensor([images_of(query)[row] for row in rows], device=query.x.device)
    return Query(query.x[positions], query.sigma[positions], rows=images)


def rows_of(cond: Cond, rows: Sequence[int], query: Query) -> Cond:
    """The rows of a query's cond; itself, if all."""
    return cond if len(rows) == len(query.x) else cond[torch.tensor(rows, device=query.x.device)]


@dataclass(frozen=True, kw_only=True, eq=False)
class Cached:
    """A direction whose difference is asked for in one of `every` calls, by image, and added again in the others: an error of first
    order in the length of a step, for 1 / every of the cost.

    Counted are the calls in which the direction acts on an image, so what an image gets does not depend on its chunk.
    """

    inner: Direction
    every: int
    _calls: dict[int, int] = field(default_factory=dict)
    _kept: dict[int, Tensor] = field(default_factory=dict)

    def active(self, query: Query) -> list[int]:
        """The active rows of the inner direction."""
        return self.inner.active(query)

    def due(self, query: Query) -> list[int]:
        """Every so many calls of an image, from its first."""
        images = images_of(query)
        return [row for row in self.inner.due(query) if self._calls.get(images[row], 0) % self.every == 0]

    def asks(self, query: Query, cond: Cond, rows: Sequence[int]) -> NamedAsks:
        """Those of the inner direction."""
        return self.inner.asks(query, cond, rows)

    def guided(
        self, query: Query, x0_hat: Tensor, own: Tensor, answers: Iterator[Answer], rows: Sequence[int]
    ) -> Tensor:
        """Add the new differences in `rows` and keep them, and add kept ones in the other active rows."""
        images, computed = images_of(query), set(rows)
        result = self.inner.guided(query, x0_hat, own, answers, rows)
        for row in self.active(query):
            image = images[row]
            if row in computed:
                self._kept[image] = result[row] - x0_hat[row]
            elif image in self._kept:
                result[row] = x0_hat[row] + self._kept[image]
            self._calls[image] = self._calls.get(image, 0) + 1
        return result
