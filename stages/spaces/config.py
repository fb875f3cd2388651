"""What a stage's config says about its space, whichever it is, and what others may ask of it without building one."""

from functools import cache
from typing import TYPE_CHECKING, Any

from ..strict import Choice

if TYPE_CHECKING:
    from .space import Size, Space


class SpaceConfig(Choice):
    """Base of the configs in `SPACES`."""

    @property
    def scale(self) -> int:
        """px of a picture along a cell of x0; sides of pictures must be multiples of it."""
        return 1

    @property
    def handed(self) -> str:
        """What is stored and handed over, in a word or two: stages that agree in it can go above each other."""
        return "pixels"

    def shape(self, channels: int, size: "Size") -> tuple[int, ...]:
        """(c, *size) of the x0 of a picture of so many channels and (height, width) px."""
        return (channels, *(side // self.scale for side in size))

    def stored(self, channels: int, size: "Size") -> tuple[int, ...]:
        """(c, ..., h, w) of what is stored of it."""
        return (channels, *size)

    def build(self) -> "Space":
        """The same of equal configs."""
        return _built(self)


@cache
def _built(config: SpaceConfig) -> Any:
    return config.loaded()(config)
