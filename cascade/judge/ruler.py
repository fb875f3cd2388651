"""A ruler for what a picture shows and in which style, trained in closed form from labelled pictures: no network, no download.

The description of a picture (`cascade.judge.describe`) is projected twice by linear discriminant analysis (Fisher 1936):
after the mean of its style is taken away, to directions in which things differ more than the drawings of one thing; and to
directions in which styles differ. Together these are DIMENSIONS numbers. A thing is found by the angle between a picture and
the mean of the thing's known drawings in all styles; a style by the nearest mean of a style.

Form A is trained without the hidden pictures, so settings may be chosen by it; form B knows all true pictures, and reports.
A file of either holds the numbers of all true pictures, too, so that ceilings and copies can be judged by the same ruler.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from cascade.judge.describe import DESCRIPTION, Description, describe
from cascade.judge.features import SAMPLES_A_DIMENSION
from cascade.judge.labelled import TRAIN, Labelled, Row
from cascade.judge.moments import Ruler
from data.decode import Color

DIMENSIONS = 64
COMPONENTS = 300  # principal components in which the discriminants are searched
SHRINK = 0.1  # of the covariance of a thing's drawings towards a multiple of the identity
STYLE_SHRINK = 0.01
FORMS = ("A", "B")
PIXELS, EDGES = 768, 512  # parts of the description of a thing, in order; the rest are colours
PART_WEIGHTS = (1.0, 1.0, 0.7)


@dataclass(frozen=True, kw_only=True)
class Embedding:
    """Pictures as numbers, float64: `thing` (n, d) with the means of styles still in, `style` (n, s)."""

    thing: Tensor
    style: Tensor

    @property
    def features(self) -> Tensor:
        """All numbers of each picture, (n, d + s): a feature for FD, KID and the like, which need no labels."""
        return torch.cat([self.thing, self.style], dim=1)


@dataclass(frozen=True, kw_only=True)
class Projection:
    """x -> (x - mean) @ matrix, for x (n, in), mean (in,), matrix (in, out)."""

    mean: Tensor
    matrix: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """(n, out) float64."""
        return (x.double() - self.mean.double()) @ self.matrix.double()


@dataclass(frozen=True, kw_only=True)
class ThingRuler:
    """A frozen ruler. things, styles: names by number. known: the rows of all true pictures; embedded: their numbers.

    size: px, to which pictures are shrunk before they are described; background: on which they must stand. data: SHA-256 of the
    pictures and rows it was trained from.
    """

    form: str
    size: int
    background: Color
    styles: tuple[str, ...]
    things: tuple[str, ...]
    known: tuple[Row, ...]
    embedded: Embedding
    to_thing: Projection
    to_style: Projection
    data: str

    @classmethod
    def train(cls, data: Labelled, *, form: str, background: Color, dimensions: int = DIMENSIONS) -> Self:
        """Train form A or B. Every row needs a style and a thing; raises ValueError for data from which nothing can be learned."""
        found = describe(data.pictures, background)
        styles, things = (tuple(sorted({getattr(row, name) for row in data.rows})) for name in ("style", "thing"))
        style = torch.tensor([styles.index(row.style) for row in data.rows])
        number = {name: k for k, name in enumerate(things)}
        thing = torch.tensor([number[row.thing] for row in data.rows])
        seen = torch.tensor([form == "B" or row.split == TRAIN for row in data.rows])
        _check(data, style[seen], thing[seen], styles, dimensions)
        num_style = min(len(styles) - 1, dimensions // 4)
        to_thing = _thing_projection(found.thing, style, thing, seen, dimensions - num_style)
        to_style = _style_projection(found.finish, style, seen, num_style)
        return cls(
            form=form, size=data.pictures.shape[-1], background=background, styles=styles, things=things, known=data.rows,
            embedded=_embedded(found, to_thing, to_style), to_thing=to_thing, to_style=to_style, data=_fingerprint(data),
        )  # fmt: skip

    def embed(self, pictures: Tensor) -> Embedding:
        """Embed pictures uint8 (n, 3, size, size) on the ruler's background."""
        if pictures.shape[-1] != self.size:
            raise ValueError(f"pictures are {pictures.shape[-1]} px, the ruler is for {self.size} px: resize them")
        return _embedded(describe(pictures, self.background), self.to_thing, self.to_style)

    @cached_property
    def style(self) -> Tensor:
        """The style's number of each known picture, (n,)."""
        return torch.tensor([self.styles.index(row.style) for row in self.known])

    @cached_property
    def thing(self) -> Tensor:
        """The thing's number of each known picture, (n,)."""
        number = {name: k for k, name in enumerate(self.things)}
        return torch.tensor([number[row.thing] for row in self.known])

    @cached_property
    def hidden(self) -> Tensor:
        """Which known pictures are hidden from training, (n,) bool."""
        return torch.tensor([row.split != TRAIN for row in self.known])

    @cached_property
    def learned(self) -> Tensor:
        """Which known pictures this form was trained on, (n,) bool."""
        return torch.ones(len(self.known), dtype=torch.bool) if self.form == "B" else ~self.hidden

    @cached_property
    def drawn(self) -> Tensor:
        """Which things exist in which style, hidden or not and known to this form in any: (styles, things) bool."""
        table = torch.zeros(len(self.styles), len(self.things), dtype=torch.bool)
        table[self.style, self.thing] = True
        return table & self._mean_norm.gt(0)

    @cached_property
    def _style_means(self) -> tuple[Tensor, Tensor]:
        """Mean numbers of each style's learned pictures: (styles, d), (styles, s)."""
        style = self.style[self.learned]
        return (
            _means(self.embedded.thing[self.learned], style, len(self.styles)),
            _means(self.embedded.style[self.learned], style, len(self.styles)),
        )

    @cached_property
    def _sums(self) -> Tensor:
        """For each thing the sum of its learned pictures' directions, (things, d)."""
        directions = self.directions(self.embedded, self.style)[self.learned]
        zero = torch.zeros(len(self.things), directions.shape[1], dtype=torch.float64)
        return zero.index_add_(0, self.thing[self.learned], directions)

    @property
    def _mean_norm(self) -> Tensor:
        return self._sums.norm(dim=1)

    def directions(self, embedded: Embedding, style: Tensor) -> Tensor:
        """Unit vectors (n, d) of pictures that are meant to be of the styles (n,): what is left without the style's mean."""
        return F.normalize(embedded.thing - self._style_means[0][style], dim=1)

    def cosines(self, embedded: Embedding, style: Tensor) -> Tensor:
        """Cosine of the angle between each picture and each thing, (n, things)."""
        return self.directions(embedded, style) @ F.normalize(self._sums, dim=1).T

    def styles_of(self, embedded: Embedding) -> Tensor:
        """The number of the nearest style of each picture, (n,)."""
        return torch.cdist(embedded.style, self._style_means[1]).argmin(dim=1)

    @property
    def identity(self) -> Ruler:
        """Name and hash, for reports and statistics files."""
        return Ruler(name=f"things-{self.form}", sha256=self.sha256)

    @cached_property
    def sha256(self) -> str:
        """Over everything that a measurement depends on."""
        digest = hashlib.sha256(json.dumps(self.said(), sort_keys=True).encode())
        for name, tensor in sorted(self.tensors().items()):
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            digest.update(tensor.numpy().tobytes())
        return digest.hexdigest()

    def said(self) -> dict[str, Any]:
        """All but the tensors, as plain values."""
        return {
            "description": DESCRIPTION, "form": self.form, "size": self.size, "background": list(self.background),
            "styles": list(self.styles), "things": list(self.things), "data": self.data,
            "known": [list(vars(row).values()) for row in self.known],
        }  # fmt: skip

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name, float32 and contiguous."""
        named = {
            "thing.mean": self.to_thing.mean, "thing.matrix": self.to_thing.matrix, "style.mean": self.to_style.mean,
            "style.matrix": self.to_style.matrix, "known.thing": self.embedded.thing, "known.style": self.embedded.style,
        }  # fmt: skip
        return {name: tensor.float().contiguous() for name, tensor in named.items()}


def _check(data: Labelled, style: Tensor, thing: Tensor, styles: tuple[str, ...], dimensions: int) -> None:
    if len(styles) < 2:
        raise ValueError(f"{data.name} has one style only, {styles[0]!r}; at least two are needed: name their column")
    if dimensions < 4:
        raise ValueError(f"--dimensions {dimensions} is out of range; at least 4 are needed")
    shown = torch.bincount(style, minlength=len(styles))
    if shown.min() < SAMPLES_A_DIMENSION:
        name = styles[int(shown.argmin())]
        raise ValueError(f"{data.name}: style {name!r} has {int(shown.min())} pictures to learn from; ten are needed")
    in_styles = torch.zeros(int(thing.max()) + 1, len(styles))
    in_styles[thing, style] = 1
    several = in_styles.sum(dim=1) > 1
    usable = int(several[thing].sum())
    needed = SAMPLES_A_DIMENSION * dimensions
    if usable < needed:
        raise ValueError(
            f"{data.name}: {usable:,} pictures to learn from are of things in two styles or more; for {dimensions} dimensions "
            f"{needed:,} are needed: add pictures, or set --dimensions {max(4, usable // SAMPLES_A_DIMENSION)}"
        )
    if int(several.sum()) <= dimensions:
        raise ValueError(
            f"{data.name}: {int(several.sum())} things are drawn in two styles or more; more than the {dimensions} dimensions "
            "are needed: add things, or set a smaller --dimensions"
        )


def _thing_projection(x: Tensor, style: Tensor, thing: Tensor, seen: Tensor, num: int) -> Projection:
    """Directions in which things differ most, over how much the drawings of one thing differ, styles' means taken away."""
    scale = _scales(x[seen])
    x = x.double() * scale
    mean = x[seen].mean(dim=0)
    x, style, thing = x[seen], style[seen], thing[seen]
    x = x - _means(x, style, int(style.max()) + 1)[style]
    components = _components(x, min(COMPONENTS, len(x) - 1))
    x = x @ components
    num_things = int(thing.max()) + 1
    means, counts = _means(x, thing, num_things), torch.bincount(thing, minlength=num_things)
    several = counts[thing] > 1
    within = _covariance((x - means[thing])[several], int(several.sum() - (counts > 1).sum()), SHRINK)
    whiten = torch.linalg.inv(torch.linalg.cholesky(within)).T
    between = means[counts > 0] @ whiten
    directions = _components(between - between.mean(dim=0), num)
    return _projection(mean / scale, scale[:, None] * (components @ whiten @ directions))


def _style_projection(x: Tensor, style: Tensor, seen: Tensor, num: int) -> Projection:
    """Directions in which styles differ most, in units of the spread within a style."""
    x, style = x[seen].double(), style[seen]
    scale = 1 / x.std(dim=0).clamp(min=1e-2 * float(x.std(dim=0).max()))
    mean = x.mean(dim=0)
    x = (x - mean) * scale
    means = _means(x, style, int(style.max()) + 1)
    within = _covariance(x - means[style], len(x) - len(means), STYLE_SHRINK)
    whiten = torch.linalg.inv(torch.linalg.cholesky(within)).T
    between = means @ whiten
    directions = _components(between - between.mean(dim=0), num)
    return _projection(mean, scale[:, None] * (whiten @ directions))


def _projection(mean: Tensor, matrix: Tensor) -> Projection:
    """In the precision of the file, so that a ruler that was just trained measures as the one that is loaded."""
    return Projection(mean=mean.float(), matrix=matrix.float())


def _scales(x: Tensor) -> Tensor:
    """A factor a column: pixels, edges and colours each get the mean length of their PART_WEIGHTS."""
    parts = x.split([PIXELS, EDGES, x.shape[1] - PIXELS - EDGES], dim=1)
    lengths = [float((part - part.mean(dim=0)).norm(dim=1).mean()) for part in parts]
    factors = [
        torch.full((part.shape[1],), weight / max(length, 1e-6), dtype=torch.float64)
        for part, weight, length in zip(parts, PART_WEIGHTS, lengths, strict=True)
    ]
    return torch.cat(factors)


def _components(x: Tensor, num: int) -> Tensor:
    """The `num` directions of largest variance of centred x (n, d): (d, num), each with its largest entry positive."""
    vectors = torch.linalg.eigh(x.T @ x)[1].flip(1)[:, :num]
    signs = vectors.gather(0, vectors.abs().argmax(dim=0, keepdim=True)).sign()
    return vectors * signs


def _covariance(x: Tensor, freedom: int, shrink: float) -> Tensor:
    """Covariance of centred x, shrunk towards a multiple of the identity (Friedman 1989)."""
    covariance = x.T @ x / max(freedom, 1)
    return (1 - shrink) * covariance + shrink * covariance.diagonal().mean() * torch.eye(len(covariance)).double()


def _means(x: Tensor, group: Tensor, num: int) -> Tensor:
    """Mean of the rows of each group, (num, d); 0 for an empty one."""
    counts = torch.bincount(group, minlength=num).clamp(min=1)
    return torch.zeros(num, x.shape[1], dtype=torch.float64).index_add_(0, group, x.double()) / counts[:, None]


def _embedded(found: Description, to_thing: Projection, to_style: Projection) -> Embedding:
    return Embedding(thing=to_thing(found.thing).float().double(), style=to_style(found.finish).float().double())


def _fingerprint(data: Labelled) -> str:
    digest = hashlib.sha256(json.dumps([list(vars(row).values()) for row in data.rows]).encode())
    digest.update(data.pictures.numpy().tobytes())
    return digest.hexdigest()
