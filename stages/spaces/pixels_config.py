"""The config of the pixel space."""

from typing import ClassVar, Literal

from .config import SpaceConfig


class PixelsConfig(SpaceConfig):
    """x0 is the picture itself."""

    implementation: ClassVar[str] = "stages.spaces.pixels:Pixels"
    kind: Literal["pixels"] = "pixels"
