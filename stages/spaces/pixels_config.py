"""The config of the space of pictures as they are."""

from typing import ClassVar, Literal

from .config import SpaceConfig


class PixelsConfig(SpaceConfig):
    space: ClassVar[str] = "stages.spaces.pixels:Pixels"
    kind: Literal["pixels"] = "pixels"
