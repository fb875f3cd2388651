"""A source: a picture that a request paints over, in part by a mask (inpainting), from a noise level (image-to-image), or both.

It is the picture of one stage. The stages before see it shrunk by THE downsample, of the known pixels alone where there is a mask,
so that nothing of what is painted over reaches them; the stages after go on as ever.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from data.batch import to_float, to_uint8
from data.resize import downsample

KNOWN = 0.9  # share of known pixels, weighted by the kernel, from which a smaller pixel is known, too


@dataclass(frozen=True, kw_only=True)
class Source:
    """images: uint8 (n, c, h, w), picture i for description i, a single one for all; of a request with `pick`, row i is of image
    pick[i]. mask: bool (n or 1, 1, h, w), True where to paint anew; None: everywhere. stage: whose pictures they are, by default
    the request's last.

    inverted: start from the noise that the stages' own ODE leads to from the picture under `prompts` and `labels`, one or as many
    as pictures, what the picture shows now. Raises ValueError.
    """

    images: Tensor
    mask: Tensor | None = None
    stage: str = ""
    inverted: bool = False
    prompts: tuple[str, ...] = ()
    labels: tuple[int | str, ...] = ()

    def __post_init__(self) -> None:
        shape, dtype = tuple(self.images.shape), self.images.dtype
        if dtype != torch.uint8 or len(shape) != 4 or 0 in shape:
            raise ValueError(
                f"request: source must be uint8 (n, c, h, w), got {str(dtype).removeprefix('torch.')} {shape}"
            )
        if (self.prompts or self.labels) and not self.inverted:
            raise ValueError("request: what a source shows is said, but it is not inverted; leave it out, or invert it")
        for what, values in (("prompts", self.prompts), ("labels", self.labels)):
            if len(values) not in (0, 1, shape[0]):
                raise ValueError(f"request: {len(values)} {what} of {shape[0]} sources; give one, or one of each")
        if self.mask is not None:
            check_mask(self.mask, self.images)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in px."""
        height, width = self.images.shape[-2:]
        return height, width

    def at(self, size: tuple[int, int]) -> "Shrunk":
        """The source at the size of its own stage or of one before."""
        return Shrunk.of(self.images, self.mask, size)

    def __getitem__(self, rows: list[int]) -> "Source":
        mask = self.mask if self.mask is None or len(self.mask) == 1 else self.mask[rows]
        return Source(
            images=self.images[rows],
            mask=None if mask is None else mask.expand(len(rows), -1, -1, -1),
            stage=self.stage,
            inverted=self.inverted,
            prompts=tuple(self.prompts[row % len(self.prompts)] for row in rows) if self.prompts else (),
            labels=tuple(self.labels[row % len(self.labels)] for row in rows) if self.labels else (),
        )


@dataclass(frozen=True, kw_only=True)
class Shrunk:
    """A source at the size of a stage: stored pictures uint8 (b, c, h, w); known (b, 1, h, w): which of their pixels to keep."""

    images: Tensor
    known: Tensor

    @classmethod
    def of(cls, images: Tensor, mask: Tensor | None, size: tuple[int, int]) -> "Shrunk":
        """Shrink by THE downsample. A pixel near the mask is the kernel's mean of the known pixels alone, d(k P) / d(k) (normalised
        convolution, Knutsson and Westin 1993), and is known if d(k) >= KNOWN. d is linear but for its clipping, which halves
        avoid."""
        whole = torch.zeros(len(images), 1, *images.shape[-2:], dtype=torch.bool) if mask is None else mask
        if mask is None:
            known = torch.zeros(len(images), 1, *size, dtype=torch.bool)
            return cls(images=to_uint8(downsample(to_float(images), size)), known=known)
        if size == tuple(images.shape[-2:]):
            return cls(images=images, known=~whole)
        keep = (~whole).to(torch.float32)
        share = 2 * downsample(keep / 2, size)
        kept = 2 * downsample(to_float(images) * keep / 2, size)
        plain = downsample(to_float(images), size)
        known = share >= KNOWN
        touched = known & ((share - 1).abs() > 1e-6)
        return cls(images=to_uint8(torch.where(touched, kept / share.clamp(min=KNOWN), plain)), known=known)


def check_mask(mask: Tensor, images: Tensor) -> None:
    """Raise ValueError for a mask of another type or size than its pictures, or one that leaves nothing to do or to keep."""
    (num, _, height, width), shape = images.shape, tuple(mask.shape)
    if mask.dtype != torch.bool or len(shape) != 4 or shape[1] != 1 or shape[0] not in (1, num):
        kind = str(mask.dtype).removeprefix("torch.")
        raise ValueError(f"request: mask must be bool ({num} or 1, 1, h, w), got {kind} {shape}")
    if shape[2:] != (height, width):
        raise ValueError(
            f"request: the mask is {shape[3]}x{shape[2]} px, its picture {width}x{height} px; give one of the same size"
        )
    check_marked(mask, "request")


def check_marked(mask: Tensor, where: str) -> None:
    """Raise ValueError for a mask bool (n, 1, h, w) that leaves nothing to do or to keep. where: begins the message."""
    marked = mask.flatten(1)
    if not marked.any(1).all():
        raise ValueError(f"{where}: the mask is empty: nothing would be painted; mark a region")
    if marked.all(1).any():
        raise ValueError(f"{where}: the mask is everywhere: nothing would be kept; leave it out, or mark less")
