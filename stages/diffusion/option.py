"""Settings that only some samplers, or some grids, read."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Option:
    """A number from low to high, an integer if its default is one, or one of some words, `choices`.

    help: its description for users.
    """

    default: float | str
    low: float = 0.0
    high: float = 0.0
    choices: tuple[str, ...] = ()
    help: str

    @property
    def range(self) -> list[float] | list[str]:
        """Its words, or its lowest and highest number."""
        return list(self.choices) or [self.low, self.high]


Options = Mapping[str, Any]
"""Values of options by name."""
