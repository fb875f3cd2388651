"""The config of a U-Net."""

from typing import ClassVar, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from ..strict import Fraction
from .config import NetworkConfig


class UNetConfig(NetworkConfig):
    """`widths`: channels of each level, finest first; `blocks`: residual blocks of each level, on each side."""

    implementation: ClassVar[str] = "stages.nets.unet:UNet"
    kind: Literal["unet"] = "unet"
    widths: tuple[PositiveInt, ...] = Field(min_length=1)
    blocks: tuple[PositiveInt, ...] = Field(min_length=1)
    patch: PositiveInt = 1
    self_attention: tuple[int, ...] = ()
    cross_attention: tuple[int, ...] = ()
    head_dim: PositiveInt = 64
    emb_dim: PositiveInt = 256
    dropout: Fraction = 0.0

    @model_validator(mode="after")
    def _levels(self) -> Self:
        if len(self.blocks) != len(self.widths):
            raise ValueError(
                f"blocks has {len(self.blocks)} levels, widths has {len(self.widths)}; give each level one of both"
            )
        for name in ("self_attention", "cross_attention"):
            for level in getattr(self, name):
                if not 0 <= level < len(self.widths):
                    raise ValueError(
                        f"{name} names level {level}; the levels are 0 to {len(self.widths) - 1}, finest first"
                    )
                if self.widths[level] % self.head_dim:
                    raise ValueError(
                        f"width {self.widths[level]} of level {level} is no multiple of head_dim {self.head_dim}"
                    )
        return self

    @property
    def multiple(self) -> int:
        """The patch, doubled at each further level: each halves the sides."""
        return self.patch * 2 ** (len(self.widths) - 1)

    @property
    def multiple_rule(self) -> str:
        """How `multiple` follows from the keys."""
        return "patch x 2^(levels - 1); use fewer levels"

    @property
    def reach(self) -> int | None:
        """Each 3 x 3 convolution reaches one cell of its level further, and each downsampling rounds up to one cell of the next."""
        if self.self_attention:
            return None
        last = len(self.widths) - 1
        cells = [
            4 * num + 2 * (level in (0, last)) for level, num in enumerate(self.blocks)
        ]  # conv_in, conv_out; the middle
        cells[0] += 2 * (last == 0)
        radius = sum((num + (level > 0)) * self.patch * 2**level for level, num in enumerate(cells))
        return -(-radius // self.multiple) * self.multiple

    @property
    def reach_rule(self) -> str:
        """The key that makes `reach` None."""
        return "net.self_attention"

    @property
    def attended(self) -> int | None:
        """Side of one cell at the finest level with self-attention; None without it."""
        return self.patch * 2 ** min(self.self_attention) if self.self_attention else None
