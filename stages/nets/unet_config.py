"""The config of a U-Net."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from ..strict import Fraction
from ..texts import LATER
from .config import NetworkConfig


class UNetConfig(NetworkConfig):
    """`widths`: channels of each level, finest first; `blocks`: residual blocks of each level, on each side, or in the encoder
    alone where `decoder_blocks` are given. A level of none has no convolutions of its own: with `blocks: [0, ...]` the picture is
    halved before the first block, as in Imagen's Efficient U-Net (Saharia et al. 2022, section B.1).

    `skip`: how the decoder takes the encoder's outputs, which have the share `skip_share` at the start. `windows`: side of the
    windows of self-attention, for each level, 0 for the whole picture; `shifted`: moved by half a side in every other block.
    """

    implementation: ClassVar[str] = "stages.nets.unet:UNet"
    controlled: ClassVar[str] = "stages.nets.controlnet:ControlNet"
    kind: Literal["unet"] = "unet"
    widths: tuple[PositiveInt, ...] = Field(min_length=1)
    blocks: tuple[NonNegativeInt, ...] = Field(min_length=1)
    patch: PositiveInt = 1
    self_attention: tuple[int, ...] = ()
    cross_attention: tuple[int, ...] = ()
    head_dim: PositiveInt = 64
    emb_dim: PositiveInt = 256
    dropout: Fraction = 0.0
    decoder_blocks: Annotated[tuple[NonNegativeInt, ...], LATER] = ()
    head_dims: Annotated[tuple[PositiveInt, ...], LATER] = ()
    windows: Annotated[tuple[NonNegativeInt, ...], LATER] = ()
    shifted: Annotated[bool, LATER] = False
    skip: Annotated[Literal["lerp", "concat"], LATER] = "lerp"
    skip_share: Annotated[float, Field(gt=0, lt=1), LATER] = 0.5
    resample_filter: Annotated[Literal["box", "smooth"], LATER] = "box"

    @model_validator(mode="after")
    def _levels(self) -> Self:
        if len(self.blocks) != len(self.widths):
            raise ValueError(
                f"blocks has {len(self.blocks)} levels, widths has {len(self.widths)}; give each level one of both"
            )
        for name in ("decoder_blocks", "head_dims", "windows"):
            if (given := len(getattr(self, name))) not in (0, len(self.widths)):
                raise ValueError(
                    f"{name} has {given} levels, widths has {len(self.widths)}; give each level one, or leave it out"
                )
        if self.shifted and not any(self.windows):
            raise ValueError("shifted moves windows, and there are none; give windows, a side for each level")
        for name in ("self_attention", "cross_attention"):
            for level in getattr(self, name):
                if not 0 <= level < len(self.widths):
                    raise ValueError(
                        f"{name} names level {level}; the levels are 0 to {len(self.widths) - 1}, finest first"
                    )
                if self.widths[level] % (head_dim := self.head_dim_of(level)):
                    raise ValueError(
                        f"width {self.widths[level]} of level {level} is no multiple of head_dim {head_dim}"
                    )
        return self

    @property
    def decoder(self) -> tuple[int, ...]:
        """Residual blocks of each level in the decoder."""
        return self.decoder_blocks or self.blocks

    def merges_of(self, level: int) -> int:
        """Skips that the decoder takes at a level: the last outputs of its encoder blocks, one a decoder block. Where either side
        has no block, the last one alone; that of a level without encoder blocks is what enters it."""
        return max(min(self.blocks[level], self.decoder[level]), 1)

    def head_dim_of(self, level: int) -> int:
        """Numbers of a head at a level."""
        return self.head_dims[level] if self.head_dims else self.head_dim

    def window_of(self, level: int) -> int:
        """Side of the windows of self-attention at a level in its cells, 0 for the whole picture."""
        return self.windows[level] if self.windows else 0

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
        """Each 3 x 3 convolution reaches one cell of its level further, and each downsampling rounds up to one cell of the next;
        the smooth filter reaches one cell more on either level."""
        if self.self_attention:
            return None
        last = len(self.widths) - 1
        cells = [
            2 * (self.blocks[level] + self.decoder[level]) + 2 * (level in (0, last)) for level in range(last + 1)
        ]  # conv_in, conv_out; the middle
        cells[0] += 2 * (last == 0)
        smooth = self.resample_filter == "smooth"
        for level in range(1, last + 1):
            cells[level - 1] += smooth
            cells[level] += 1 + smooth
        radius = sum(num * self.patch * 2**level for level, num in enumerate(cells))
        return -(-radius // self.multiple) * self.multiple

    @property
    def reach_rule(self) -> str:
        """The key that makes `reach` None."""
        return "net.self_attention"

    @property
    def attended(self) -> int | None:
        """Side of one cell at the finest level with self-attention over the whole picture; None without one."""
        whole = [level for level in self.self_attention if not self.window_of(level)]
        return self.patch * 2 ** min(whole) if whole else None
