"""The config that all spaces share, with what other code may need from it without building the space."""

from functools import cache
from typing import TYPE_CHECKING, Any

from ..strict import Choice

if TYPE_CHECKING:
    from .space import Size, Space


class SpaceConfig(Choice):
    """Base of the configs in `SPACES`."""

    @property
    def scale(self) -> int:
        """Side in px of one cell of x0; sides of pictures must be multiples of it."""
        return 1

    @property
    def handed(self) -> str:
        """Name of the stored form that stages hand over; neighbouring stages must agree in it."""
        return "pixels"

    def shape(self, channels: int, size: "Size") -> tuple[int, ...]:
        """Shape (c, *size) of the x0 of a picture with `channels` and size (height, width) in px."""
        return (channels, *(side // self.scale for side in size))

    def stored(self, channels: int, size: "Size") -> tuple[int, ...]:
        """Shape (c, ..., h, w) of the stored form of such a picture."""
        return (channels, *size)

    def build(self) -> "Space":
        """Return the space; equal configs share one object."""
        return _built(self)


@cache
def _built(config: SpaceConfig) -> Any:
    return config.loaded()(config)
