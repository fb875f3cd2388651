"""The config of a diffusion transformer."""

from typing import ClassVar, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from ..strict import Fraction
from .config import NetworkConfig


class DiTConfig(NetworkConfig):
    """`width`: channels of a token; `depth`: blocks; `patch`: side of a token in px (or cells of x0); `mlp`: hidden channels of a
    block, in widths. `text`: where captions enter besides the embedding: nowhere, by cross-attention, or as tokens of the sequence.
    """

    implementation: ClassVar[str] = "stages.nets.dit:DiT"
    kind: Literal["dit"] = "dit"
    width: PositiveInt
    depth: PositiveInt
    patch: PositiveInt = 2
    head_dim: PositiveInt = Field(default=64, multiple_of=4)
    mlp: PositiveInt = 4
    text: Literal["pooled", "cross", "joined"] = "pooled"
    head: Literal["linear", "conv"] = "linear"
    emb_dim: PositiveInt = 256
    dropout: Fraction = 0.0

    @model_validator(mode="after")
    def _heads(self) -> Self:
        if self.width % self.head_dim:
            raise ValueError(
                f"width {self.width} is no multiple of head_dim {self.head_dim}; "
                f"set width to {max(self.width // self.head_dim, 1) * self.head_dim}, or another head_dim"
            )
        return self

    @property
    def multiple(self) -> int:
        """The patch."""
        return self.patch

    @property
    def multiple_rule(self) -> str:
        """How `multiple` follows from the keys."""
        return "patch"

    @property
    def reach(self) -> None:
        """Unlimited: every token attends to every other."""
        return None

    @property
    def attended(self) -> int:
        """Side of a token."""
        return self.patch
