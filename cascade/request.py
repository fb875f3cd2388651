"""A request: which images a user wants, from which prompts, labels and pictures, with which settings."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from .source import Source

MAX_SEED = 2**63 - 1
MAX_BATCH = 4096
MAX_SIDE = 16_384  # px a side of the result
MAX_WEIGHT = 100  # of a composed text, and guidance scale

T = TypeVar("T")

Composed = tuple[tuple[str, float], ...]
"""Texts with their weights."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """`num` images of each description or picture. Given seed and settings, image k does not depend on the other images.

    prompts: captions; labels: numbers of classes, or their names where the bundles know them. Together: as many of both, or a
    single one that goes with all of the other; what is not given is the null condition in every stage that has it. low_res:
    uint8 (n, c, h, w), pictures to enlarge instead of sampling a base stage; picture i goes with description i, a single one
    with all. negative: a text for each description, in place of no text in its guidance; "" is none. composed: for each description
    further texts with weights, whose differences are added to its own prompt's. guidance: by stage name, a guidance_scale for each
    description. Of each of these lists there may be as many as descriptions, or one for all. maps: uint8 (n, c, h, w),
    what is where in the result, for stages that were trained with maps; of any size, they are resized to each stage's; map i goes
    with description or picture i, a single one with all. size:
    (height, width) of the result, by default the last stage's resolution. settings: overrides by stage name,
    {"sr_64": {"num_steps": 8}}. batch: images computed together; it bounds memory, `num` does not. first, last: names of
    stages, for a part of the chain. same_noise: image j of every description begins with the same noise, that of image j of a
    request for one description; so only what is described differs.

    seconds: a budget for the networks' time, all images together: `Cascade.resolve` turns it into num_steps of the stages whose
    num_steps is not in settings (budget.py).

    uncertainty: tell with every preview and picture how unsure its stage is of each pixel, in the stages that were trained with
    learned_variance (uncertainty.py).

    pick: compute only these images of the request. With low_res, row i is the picture of image pick[i] from the stage before:
    refining held pictures gives the bytes that an undisturbed request would have given. source: pictures to paint over, up to
    their stage. Raises ValueError.
    """

    num: int = 1
    seed: int = 0
    prompts: tuple[str, ...] = ()
    labels: tuple[int | str, ...] = ()
    low_res: Tensor | None = None
    maps: Tensor | None = None
    size: tuple[int, int] | None = None
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    batch: int = 16
    first: str = ""
    last: str = ""
    pick: Sequence[int] = ()
    negative: tuple[str, ...] = ()
    composed: tuple[Composed, ...] = ()
    guidance: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    same_noise: bool = False
    source: Source | None = None
    seconds: float | None = None
    uncertainty: bool = False

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("num", self.num, 1, 10**9),
            ("seed", self.seed, 0, MAX_SEED),
            ("batch", self.batch, 1, MAX_BATCH),
        ):
            if not isinstance(value, int) or not low <= value <= high:
                raise ValueError(f"request: {name} {value} is out of range; {low} to {high} is allowed")
        if self.seconds is not None and not 0 < self.seconds < float("inf"):
            raise ValueError(
                f"request: seconds {self.seconds} is out of range; a positive number of seconds is allowed"
            )
        if isinstance(self.prompts, str):
            raise ValueError(f"request: prompts is one string; write ({self.prompts[:40]!r},)")
        if isinstance(self.negative, str):
            raise ValueError(f"request: negative is one string; write ({self.negative[:40]!r},)")
        for name, texts in self._texts.items():
            if any("\ud800" <= char <= "\udfff" for text in texts for char in text):
                raise ValueError(f"request: {name}: half of a character (a lone surrogate) in it; send whole ones")
        if isinstance(self.labels, str):
            raise ValueError(f"request: labels is one string; write ({self.labels[:40]!r},)")
        if len({len(self.prompts), len(self.labels)} - {0, 1}) > 1:
            raise ValueError(
                f"request: {len(self.prompts)} prompts and {len(self.labels)} labels; give one of either, or as many of both"
            )
        self._check_guidance()
        if self.low_res is not None and self.size is not None:
            raise ValueError("request: both a picture and a size; the picture decides the size")
        if self.size is not None and not (min(self.size) > 0 and max(self.size) <= MAX_SIDE):
            raise ValueError(f"request: size {self.size} is out of range; 1 to {MAX_SIDE} px a side are allowed")
        if self.source is not None and self.size is not None:
            raise ValueError("request: both a source and a size; the source decides the size")
        self._check_pictures()
        self._check_source()
        self._check_maps()
        check_images(self.pick, self.total)

    @property
    def _texts(self) -> dict[str, Sequence[str]]:
        """All texts, by the name of their field."""
        composed = [text for texts in self.composed for text, _ in texts]
        return {"prompts": self.prompts, "negative": self.negative, "composed": composed}

    def _check_guidance(self) -> None:
        if any(self.composed) and not self.prompts:
            raise ValueError("request: composed texts without a prompt that they are added to; give one")
        for text, weight in (each for texts in self.composed for each in texts):
            if not abs(weight) <= MAX_WEIGHT:
                raise ValueError(
                    f"request: composed: weight {weight} of {text[:40]!r} is out of range; at most {MAX_WEIGHT} either way"
                )
        for stage, scales in self.guidance.items():
            for scale in scales:
                if not 0 <= scale <= MAX_WEIGHT:
                    raise ValueError(
                        f"request: guidance of {stage}: {scale} is out of range; 0 to {MAX_WEIGHT} are allowed"
                    )
        lists: dict[str, Sequence[Any]] = {"negative texts": self.negative, "lists of composed texts": self.composed}
        lists |= {f"guidance scales of {stage}": scales for stage, scales in self.guidance.items()}
        named = max(len(self.prompts), len(self.labels))
        described = named if named > 1 else self.described
        for name, values in lists.items():
            if len(values) not in (0, 1, described):
                raise ValueError(
                    f"request: {len(values)} {name} for {described} descriptions; give one, or as many as descriptions"
                )

    def _check_maps(self) -> None:
        if self.maps is None:
            return
        shape, dtype = tuple(self.maps.shape), self.maps.dtype
        if dtype != torch.uint8 or len(shape) != 4 or 0 in shape:
            raise ValueError(
                f"request: maps must be uint8 (n, c, h, w), got {str(dtype).removeprefix('torch.')} {shape}"
            )
        if len({shape[0], self._places} - {1}) > 1:
            raise ValueError(
                f"request: {shape[0]} maps for {self._places} descriptions or pictures; give one of either, or as many of both"
            )

    def _check_pictures(self) -> None:
        if self.low_res is None:
            return
        shape, dtype = tuple(self.low_res.shape), self.low_res.dtype
        if dtype != torch.uint8 or len(shape) != 4 or 0 in shape:
            raise ValueError(
                f"request: low_res must be uint8 (n, c, h, w), got {str(dtype).removeprefix('torch.')} {shape}"
            )
        if self.refines:
            if shape[0] != len(self.pick):
                raise ValueError(f"request: {shape[0]} pictures for {len(self.pick)} picked images; give one for each")
            return
        if len({shape[0], self.described} - {1}) > 1:
            raise ValueError(
                f"request: {shape[0]} pictures and {self.described} prompts or labels; give one of either, or as many of both"
            )

    def _check_source(self) -> None:
        if self.source is None:
            return
        num = len(self.source.images)
        if self.pick:
            if num not in (1, len(self.pick)):
                raise ValueError(f"request: {num} sources for {len(self.pick)} picked images; give one, or one of each")
        elif len({num, self.places} - {1}) > 1:
            raise ValueError(
                f"request: {num} sources and {self.described} prompts or labels; give one of either, or as many of both"
            )

    @property
    def refines(self) -> bool:
        """Whether low_res holds pictures of a stage before, to be refined: row i belongs to image pick[i]."""
        return self.low_res is not None and len(self.pick) > 0

    @property
    def places(self) -> int:
        """Number of different descriptions, given pictures or maps, each of which gets `num` images; 1 if there are none."""
        return max(self._places, 0 if self.maps is None else len(self.maps))

    @property
    def _places(self) -> int:
        """Number of different descriptions or given pictures, maps left aside."""
        num_pictures = 0 if self.low_res is None or self.refines else len(self.low_res)
        num_sources = 0 if self.source is None or self.pick else len(self.source.images)
        return max(self.described, num_pictures, num_sources)

    @property
    def described(self) -> int:
        """Number of descriptions: prompts, labels, or pairs of them; 1 if there are none. What is said of their guidance makes a
        single one several, too."""
        scales = [len(scales) for scales in self.guidance.values()]
        return max(len(self.prompts), len(self.labels), len(self.negative), len(self.composed), *scales, 1)

    @property
    def total(self) -> int:
        """Number of images of the whole request, picked or not."""
        return self.places * self.num

    @property
    def index(self) -> Sequence[int]:
        """The numbers of the wanted images, in order; a range if all are, since there may be a billion."""
        return self.pick or range(self.total)

    def given(self, images: tuple[int, ...]) -> Tensor | None:
        """The rows of low_res that belong to these images; None without low_res."""
        if self.low_res is None:
            return None
        if self.refines:
            return self.low_res[[self.pick.index(image) for image in images]]
        return self.low_res[[self.description(image) % len(self.low_res) for image in images]]

    def sources(self, images: tuple[int, ...]) -> Source | None:
        """The rows of the source that belong to these images; None without one."""
        if self.source is None:
            return None
        return self.source[[self.source_row(image) for image in images]]

    def source_row(self, image: int) -> int:
        """The row of the source that belongs to an image."""
        assert self.source is not None
        place = self.pick.index(image) if self.pick else self.description(image)
        return place % len(self.source.images)

    def maps_of(self, images: tuple[int, ...]) -> Tensor | None:
        """The maps of these images; None without maps."""
        return None if self.maps is None else self.maps[[self.description(image) % len(self.maps) for image in images]]

    def description(self, image: int) -> int:
        """Number of the description or picture of an image."""
        return image // self.num

    def noise_number(self, image: int) -> int:
        """Number of the noise that an image begins with: its own, or its place in its description with `same_noise`."""
        return image % self.num if self.same_noise else image

    def prompts_of(self, rows: Sequence[int]) -> list[str]:
        """The prompts of these descriptions, by number; [] without prompts."""
        return of_rows(self.prompts, rows)

    def labels_of(self, rows: Sequence[int]) -> list[int | str]:
        """The labels of these descriptions, by number; [] without labels."""
        return of_rows(self.labels, rows)

    def described_by(self, rows: Sequence[int]) -> dict[str, Any]:
        """The fields that describe pictures, for these descriptions alone."""
        lists = {"prompts": self.prompts, "labels": self.labels, "negative": self.negative, "composed": self.composed}
        guidance = {stage: tuple(of_rows(scales, rows)) for stage, scales in self.guidance.items()}
        return {name: tuple(of_rows(values, rows)) for name, values in lists.items()} | {"guidance": guidance}


def composed_of(lists: Iterable[Iterable[Sequence[Any]]]) -> tuple[Composed, ...]:
    """Composed texts from JSON, where they are lists of pairs."""
    return tuple(tuple((text, weight) for text, weight in texts) for texts in lists)


def of_rows(values: Sequence[T], rows: Sequence[int]) -> list[T]:
    """The values of descriptions of these numbers, if there is one for each or one for all; [] if there are none."""
    return [values[row % len(values)] for row in rows] if values else []


def check_images(images: Sequence[int], total: int) -> None:
    """Raise ValueError unless these are distinct numbers from 0 to total - 1."""
    if isinstance(images, range) and images.step == 1:  # may be a billion: look at its ends only
        checked: tuple[int, ...] = (images[0], images[-1]) if images else ()
    elif len(set(images)) < len(images):
        raise ValueError(f"request: pick {list(images)} names an image twice; name each once")
    else:
        checked = tuple(images)
    for image in checked:
        if not 0 <= image < total:
            raise ValueError(f"request: pick {image} is out of range; 0 to {total - 1} are there")
