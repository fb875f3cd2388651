"""What flows from the shards to a stage: a `Batch` of pictures and the `Cond` that describes them.

Shapes: b pictures, n text tokens, d text features. Pictures stay uint8 until they are on the device.
"""

from dataclasses import dataclass, fields, replace
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Cond:
    """What pictures are conditioned on; every part is per picture, so rows of different requests can share a batch.

    keep (b,) bool: False means "use the network's learned null condition for this row" (condition dropout in
    training, the unconditional half of classifier-free guidance in sampling). label (b,) int64. text (b, n, d) token
    features of a frozen encoder, text_mask (b, n) bool with True for real tokens.
    """

    keep: Tensor
    label: Tensor | None = None
    text: Tensor | None = None
    text_mask: Tensor | None = None

    @classmethod
    def empty(cls, num: int, device: torch.device | str = "cpu") -> Self:
        """The condition of `num` pictures about which nothing is known."""
        return cls(keep=torch.zeros(num, dtype=torch.bool, device=device))

    @classmethod
    def cat(cls, parts: list[Self]) -> Self:
        """The rows of several conditions of the same make, in order."""
        names = [f.name for f in fields(cls) if getattr(parts[0], f.name) is not None]
        return cls(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})

    def __len__(self) -> int:
        return len(self.keep)

    def __getitem__(self, rows: slice | Tensor) -> Self:
        return self._each(lambda t: t[rows])

    def to(self, device: torch.device | str) -> Self:
        return self._each(lambda t: sent(t, device))

    def pin(self) -> Self:
        return self._each(lambda t: t.pin_memory())

    def null(self) -> Self:
        """The same rows with everything dropped: what classifier-free guidance steers away from."""
        return replace(self, keep=torch.zeros_like(self.keep))

    def _each(self, change) -> Self:
        changed = {f.name: change(t) for f in fields(self) if (t := getattr(self, f.name)) is not None}
        return replace(self, **changed)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One rank's part of a global batch.

    image (b, c, h, w) uint8. index (b,) int64: the position of each picture in the run, counted in images over the
    whole job; all randomness of training is a function of (seed, index), so it does not depend on ranks, workers or
    accumulation.
    """

    image: Tensor
    cond: Cond
    index: Tensor
    keys: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.image)

    def __getitem__(self, rows: slice) -> Self:
        return replace(self, image=self.image[rows], cond=self.cond[rows], index=self.index[rows], keys=self.keys[rows])

    def to(self, device: torch.device | str) -> Self:
        return replace(self, image=sent(self.image, device), cond=self.cond.to(device))

    def pin_memory(self) -> Self:
        """Called by torch's DataLoader when it pins."""
        return replace(self, image=self.image.pin_memory(), cond=self.cond.pin())


def sent(tensor: Tensor, device: torch.device | str) -> Tensor:
    """To a GPU without waiting; from one, what has not arrived must not be read."""
    return tensor.to(device, non_blocking=torch.device(device).type == "cuda")


def to_float(image: Tensor) -> Tensor:
    """uint8 [0, 255] to float32 [-1, 1]; 0 and 255 land exactly on the ends."""
    return image.to(torch.float32) / 127.5 - 1


def to_uint8(image: Tensor) -> Tensor:
    """float [-1, 1] (values outside are clipped) to the nearest uint8 level; the inverse of `to_float`."""
    return ((image.to(torch.float32).clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
