"""Ports: the inputs of a network, named like the parts of a cond, and its outputs."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Ports:
    """inputs, outputs: channels of x (with everything concatenated to it) and of F. levels: names of parts that are one number
    (b,). vectors: parts (b, k) float32, with their k; a part of zeros means the same as none.
    classes: parts that are a class (b,) int64, with the number of classes. tokens: parts (b, n, d), with their d. numbers: parts
    (b, k) float32 of order 1, with their k; they may be dropped."""

    inputs: int
    outputs: int
    levels: tuple[str, ...] = ()
    vectors: Mapping[str, int] = field(default_factory=dict)
    classes: Mapping[str, int] = field(default_factory=dict)
    tokens: Mapping[str, int] = field(default_factory=dict)
    numbers: Mapping[str, int] = field(default_factory=dict)
