"""A request: which images, from what, with which settings."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

MAX_SEED = 2**63 - 1


@dataclass(frozen=True, kw_only=True)
class Request:
    """`num` images of each prompt or label; image k is the same whatever else is asked for, given seed and settings.

    prompts: captions; labels: class numbers; at most one of both, none is unconditional. low_res: uint8 (n, c, h, w), pictures to
    sharpen instead of sampling a base stage: each of them is one prompt's place. size: (height, width) of the result, by default
    the last stage's resolution. settings: overrides by stage name, {"sr_64": {"num_steps": 8}}. batch: images computed
    together, which bounds memory, not `num`.
    """

    num: int = 1
    seed: int = 0
    prompts: tuple[str, ...] = ()
    labels: tuple[int, ...] = ()
    low_res: Tensor | None = None
    size: tuple[int, int] | None = None
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    batch: int = 16

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("num", self.num, 1, 10**9),
            ("seed", self.seed, 0, MAX_SEED),
            ("batch", self.batch, 1, 4096),
        ):
            if not low <= value <= high:
                raise ValueError(f"request: {name} {value} is out of range; {low} to {high} is allowed")
        if self.prompts and self.labels:
            raise ValueError("request: both prompts and labels; give one of them")
        if self.low_res is not None and self.size is not None:
            raise ValueError("request: both a picture and a size; the picture decides the size")

    @property
    def places(self) -> int:
        """How many different things are asked for: prompts, labels or pictures; 1 where nothing is said."""
        return max(len(self.prompts), len(self.labels), 0 if self.low_res is None else len(self.low_res), 1)

    @property
    def total(self) -> int:
        return self.places * self.num

    def place(self, image: int) -> int:
        """Which prompt, label or picture image k belongs to."""
        return image // self.num
