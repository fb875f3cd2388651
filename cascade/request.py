"""A request: which images, from what, with which settings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

MAX_SEED = 2**63 - 1
MAX_BATCH = 4096
MAX_SIDE = 16_384  # of a result, in px: memory grows with the area


@dataclass(frozen=True, kw_only=True)
class Request:
    """`num` images of each prompt or label; image k is the same whatever else is asked for, given seed and settings.

    prompts: captions; labels: class numbers; at most one of both, none is unconditional. low_res: uint8 (n, c, h, w),
    pictures to sharpen instead of sampling a base stage; picture i goes with prompt i, a single one with all. size:
    (height, width) of the result, by default the last stage's resolution. settings: overrides by stage name,
    {"sr_64": {"num_steps": 8}}. batch: images computed together, which bounds memory, not `num`. first, last: names of
    stages, for a part of the chain.

    pick: only these images of the request. With low_res, row i is what the stage below had made of image pick[i]: refining
    held pictures gives the bytes that an undisturbed request would have given.
    """

    num: int = 1
    seed: int = 0
    prompts: tuple[str, ...] = ()
    labels: tuple[int, ...] = ()
    low_res: Tensor | None = None
    size: tuple[int, int] | None = None
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    batch: int = 16
    first: str = ""
    last: str = ""
    pick: Sequence[int] = ()

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("num", self.num, 1, 10**9),
            ("seed", self.seed, 0, MAX_SEED),
            ("batch", self.batch, 1, MAX_BATCH),
        ):
            if not isinstance(value, int) or not low <= value <= high:
                raise ValueError(f"request: {name} {value} is out of range; {low} to {high} is allowed")
        if isinstance(self.prompts, str):
            raise ValueError(f"request: prompts is one string; write ({self.prompts[:40]!r},)")
        if any("\ud800" <= char <= "\udfff" for prompt in self.prompts for char in prompt):
            raise ValueError("request: prompts: half of a character (a lone surrogate) in it; send whole ones")
        if self.prompts and self.labels:
            raise ValueError("request: both prompts and labels; give one of them")
        if self.low_res is not None and self.size is not None:
            raise ValueError("request: both a picture and a size; the picture decides the size")
        if self.size is not None and not (min(self.size) > 0 and max(self.size) <= MAX_SIDE):
            raise ValueError(f"request: size {self.size} is out of range; 1 to {MAX_SIDE} px a side are allowed")
        self._check_pictures()
        self._check_pick()

    def _check_pick(self) -> None:
        if isinstance(self.pick, range) and self.pick.step == 1:  # perhaps of a billion
            ends: tuple[int, ...] = (self.pick[0], self.pick[-1]) if self.pick else ()
        elif len(set(self.pick)) < len(self.pick):
            raise ValueError(f"request: pick {list(self.pick)} names an image twice; name each once")
        else:
            ends = tuple(self.pick)
        for image in ends:
            if not 0 <= image < self.total:
                raise ValueError(f"request: pick {image} is out of range; 0 to {self.total - 1} are there")

    def _check_pictures(self) -> None:
        if self.low_res is None:
            return
        shape, dtype = tuple(self.low_res.shape), self.low_res.dtype
        if dtype != torch.uint8 or len(shape) != 4 or 0 in shape:
            raise ValueError(
                f"request: low_res must be uint8 (n, c, h, w), got {str(dtype).removeprefix('torch.')} {shape}"
            )
        if self.pick:
            if shape[0] != len(self.pick):
                raise ValueError(f"request: {shape[0]} pictures for {len(self.pick)} picked images; give one for each")
            return
        described = len(self.prompts) + len(self.labels)
        if len({shape[0], described} - {0, 1}) > 1:
            raise ValueError(
                f"request: {shape[0]} pictures and {described} prompts or labels; give one of either, or as many of both"
            )

    @property
    def places(self) -> int:
        """How many different things are asked for: prompts, labels or pictures; 1 where nothing is said."""
        given = 0 if self.low_res is None or self.pick else len(self.low_res)
        return max(len(self.prompts), len(self.labels), given, 1)

    @property
    def total(self) -> int:
        """Images of the whole request, picked or not."""
        return self.places * self.num

    @property
    def index(self) -> Sequence[int]:
        """The numbers of the images that are wanted, in order; perhaps of a billion."""
        return self.pick or range(self.total)

    @cached_property
    def wanted(self) -> Sequence[int]:
        """The prompts or labels, by number, that the wanted images have."""
        said = max(len(self.prompts), len(self.labels), 1)
        if said == 1 or not self.pick:
            return range(said)
        return tuple(sorted({self.place(image) % said for image in self.pick}))

    def cond_row(self, image: int) -> int:
        """Where in `wanted` the prompt or label of image k is."""
        return self.wanted.index(self.place(image) % max(len(self.prompts), len(self.labels), 1))

    def picked(self, images: Sequence[int]) -> "Request":
        """The same, of these images only."""
        if self.low_res is None or not images:
            return replace(self, pick=images)
        one = len(self.low_res) == 1  # not copied
        rows = self.low_res.expand(len(images), -1, -1, -1) if one else self.given(tuple(images))
        return replace(self, pick=images, low_res=rows)

    def given(self, images: tuple[int, ...]) -> Tensor | None:
        """The rows of low_res that belong to these images."""
        if self.low_res is None:
            return None
        if self.pick:
            return self.low_res[[self.pick.index(image) for image in images]]
        return self.low_res[[self.place(image) % len(self.low_res) for image in images]]

    def place(self, image: int) -> int:
        """Which prompt, label or picture image k belongs to."""
        return image // self.num
