"""The config of the space of pictures as they are."""

from typing import ClassVar, Literal

from .config import SpaceConfig


class PixelsConfig(SpaceConfig):
    """x0 are the pictures themselves."""

    implementation: ClassVar[str] = "stages.spaces.pixels:Pixels"
    kind: Literal["pixels"] = "pixels"
