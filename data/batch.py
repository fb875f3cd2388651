"""What flows from the shards to a stage: a `Batch` of pictures and the `Cond` that describes them.

Shapes: b pictures, n text tokens, d text features. Pictures stay uint8 until they are on the device.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Part:
    """One conditioning input of b pictures. value (b, ...).

    keep (b,) bool: False means "use the network's learned null for this row" (condition dropout in training, the
    unconditional half of classifier-free guidance in sampling). mask (b, n) bool of token features (b, n, d), True for
    real tokens.
    """

    value: Tensor
    keep: Tensor
    mask: Tensor | None = None

    def _each(self, change: Callable[[Tensor], Tensor]) -> Self:
        mask = None if self.mask is None else change(self.mask)
        return replace(self, value=change(self.value), keep=change(self.keep), mask=mask)


@dataclass(frozen=True, kw_only=True)
class Cond:
    """Conditions of `num` pictures, by name. Every part is per picture, so rows of different requests can share a batch.

    Names are those of the network's ports: label (b,) int64; text (b, n, d), token features of a frozen encoder;
    low_res (b, c, h, w), the augmented picture of the previous stage, and aug (b,), its augmentation level; maps (b, c, h, w),
    what is where; original_size (b, 2), height and width of the picture before it was packed, int64 in px until a stage has read
    it; position (b, 2, h, w), where in its picture each cell lies; in training warp (b, 3), how the picture was moved and scaled.
    """

    num: int
    parts: Mapping[str, Part] = field(default_factory=dict)

    @classmethod
    def empty(cls, num: int) -> Self:
        """The condition of `num` pictures without any part."""
        return cls(num=num)

    @classmethod
    def of(
        cls, keep: Tensor, *, label: Tensor | None = None, text: Tensor | None = None, text_mask: Tensor | None = None
    ) -> Self:
        """Label and text as parts, all kept or dropped by one `keep` (b,)."""
        parts = {}
        if label is not None:
            parts["label"] = Part(value=label, keep=keep)
        if text is not None:
            parts["text"] = Part(value=text, keep=keep, mask=text_mask)
        return cls(num=len(keep), parts=parts)

    @classmethod
    def cat(cls, conds: Sequence[Self]) -> Self:
        """Concatenate the rows of conditions of the same `make`, in order."""

        def joined(name: str) -> Part:
            parts = [cond.parts[name] for cond in conds]
            masks = [part.mask for part in parts if part.mask is not None]
            return Part(
                value=torch.cat([part.value for part in parts]),
                keep=torch.cat([part.keep for part in parts]),
                mask=torch.cat(masks) if masks else None,
            )

        return cls(num=sum(cond.num for cond in conds), parts={name: joined(name) for name in conds[0].parts})

    def __len__(self) -> int:
        return self.num

    def __getitem__(self, rows: slice | Tensor) -> Self:
        num = len(range(self.num)[rows]) if isinstance(rows, slice) else len(rows)
        return replace(self._each(lambda tensor: tensor[rows]), num=num)

    def value(self, name: str) -> Tensor | None:
        """The tensor of a part, or None if there is no such part."""
        part = self.parts.get(name)
        return None if part is None else part.value

    def given(self, **values: Tensor) -> Self:
        """A copy with these parts added or replaced, kept in every row."""
        added = {
            name: Part(value=value, keep=torch.ones(self.num, dtype=torch.bool, device=value.device))
            for name, value in values.items()
        }
        return replace(self, parts={**self.parts, **added})

    def dropped(self, names: Collection[str], keep: Tensor | None = None) -> Self:
        """A copy with these parts dropped where `keep` (b,) is False, by default in every row."""
        replaced = {
            name: replace(part, keep=torch.zeros_like(part.keep) if keep is None else part.keep & keep)
            for name, part in self.parts.items()
            if name in names
        }
        return replace(self, parts={**self.parts, **replaced})

    def without(self, *names: str) -> Self:
        """A copy without these parts."""
        return replace(self, parts={name: part for name, part in self.parts.items() if name not in names})

    @property
    def make(self) -> tuple:
        """Names and row shapes of the parts; conditions of the same make can share a batch."""
        return tuple((name, part.value.shape[1:]) for name, part in sorted(self.parts.items()))

    def to(self, device: torch.device | str) -> Self:
        """A copy with every tensor on `device`."""
        return self._each(lambda tensor: sent(tensor, device))

    def pin(self) -> Self:
        """A copy with every tensor in pinned memory."""
        return self._each(lambda tensor: tensor.pin_memory())

    def _each(self, change: Callable[[Tensor], Tensor]) -> Self:
        return replace(self, parts={name: part._each(change) for name, part in self.parts.items()})


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One rank's part of a global batch.

    image (b, c, h, w) uint8. index (b,) int64: position of each picture in the run, counted in images over all ranks.
    All randomness of training is a function of (seed, index), so it does not depend on ranks, workers or gradient
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
        """A copy with image and condition on `device`; `index` is not moved."""
        return replace(self, image=sent(self.image, device), cond=self.cond.to(device))

    def pin_memory(self) -> Self:
        """A copy with image and condition in pinned memory; torch's DataLoader calls this when it pins."""
        return replace(self, image=self.image.pin_memory(), cond=self.cond.pin())


def sent(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Copy to a device, asynchronously only towards a GPU: a copy from one could be read before it has arrived."""
    return tensor.to(device, non_blocking=torch.device(device).type == "cuda")


def to_float(image: Tensor) -> Tensor:
    """uint8, or float of its levels, [0, 255] to float32 [-1, 1]; 0 and 255 map exactly to the ends."""
    return image.to(torch.float32) / 127.5 - 1


def to_uint8(image: Tensor) -> Tensor:
    """float [-1, 1] (values outside are clipped) to the nearest uint8 level; the inverse of `to_float`."""
    return ((image.to(torch.float32).clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
