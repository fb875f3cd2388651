"""What a network is given, by the names of the parts of a condition, and what it gives."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Ports:
    """inputs, outputs: channels of x with all that is concatenated to it, and of F. levels: parts that are one number (b,).
    classes: parts that are a class (b,) int64, each with how many there are. tokens: parts (b, n, d), each with its d."""

    inputs: int
    outputs: int
    levels: tuple[str, ...] = ()
    classes: Mapping[str, int] = field(default_factory=dict)
    tokens: Mapping[str, int] = field(default_factory=dict)
