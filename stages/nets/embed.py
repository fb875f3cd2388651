"""Embeddings: the network's inputs besides pixels - noise level, augmentation level, class, pooled text, numbers such as the
original size, vectors such as the warp - as one vector (b, e).

Each part has unit variance and the parts are summed with equal weight. In rows where a part is not kept its learned null vector
takes its place: that is condition dropout in training and the unconditional half of guidance in sampling. A vector is added through
a linear map without bias and does not count in the scaling of the sum, so that a vector of zeros is exactly none.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from data.batch import Cond, Part

from .blocks import SILU_GAIN, MPWeight
from .ports import Ports


class Fourier(nn.Module):
    """Random Fourier features sqrt(2) cos(2 pi (f v + phi)) of a scalar (b,), unit variance (EDM2, eq. 75)."""

    frequency: Tensor
    phase: Tensor

    def __init__(self, num: int):
        super().__init__()
        self.register_buffer("frequency", torch.randn(num))
        self.register_buffer("phase", torch.rand(num))

    def forward(self, value: Tensor) -> Tensor:
        """Features (b, num) of value (b,)."""
        return math.sqrt(2) * (2 * math.pi * (value.float()[:, None] * self.frequency + self.phase)).cos()


class Embedding(nn.Module):
    """Maps (noise (b,), cond) to (b, e) float32, the sum over all ports. A missing class, text or number counts as dropped; a
    missing level or vector is left out of the sum."""

    def __init__(self, emb_dim: int, ports: Ports):
        super().__init__()
        self.ports = ports
        self.fourier = Fourier(emb_dim)
        self.noise = MPWeight(emb_dim, emb_dim)
        for name in ports.levels:
            self.add_module(f"{name}_fourier", Fourier(emb_dim))
            self.add_module(name, MPWeight(emb_dim, emb_dim))
        for name, num in ports.classes.items():
            self.add_module(name, MPWeight(num + 1, emb_dim))  # the last row is the null class
        for name, dim in ports.tokens.items():
            self.add_module(name, MPWeight(dim, emb_dim))
            self.register_parameter(f"null_{name}", nn.Parameter(torch.randn(dim)))
        for name, numbers in ports.vectors.items():
            self.add_module(name, MPWeight(numbers, emb_dim))
        for name, count in ports.numbers.items():
            self.add_module(f"{name}_fourier", nn.ModuleList(Fourier(emb_dim) for _ in range(count)))
            self.add_module(name, MPWeight(count * emb_dim, emb_dim))
            self.register_parameter(f"null_{name}", nn.Parameter(torch.randn(count * emb_dim)))

    def forward(self, noise: Tensor, cond: Cond) -> Tensor:
        """Embed noise (b,) and the parts of a cond."""
        num, parts = len(noise), [self.noise(self.fourier(noise))]
        for name in self.ports.levels:
            if (level := cond.value(name)) is not None:
                features = getattr(self, f"{name}_fourier")(level)
                parts.append(getattr(self, name)(features))
        for name, classes in self.ports.classes.items():
            label = labels(cond.parts.get(name), num, classes, noise.device)
            one_hot = nn.functional.one_hot(label, classes + 1)
            parts.append(getattr(self, name)(one_hot.float() * math.sqrt(classes + 1)))
        for name in self.ports.tokens:
            pooled = pooled_text(cond.parts.get(name), num, getattr(self, f"null_{name}"))
            parts.append(getattr(self, name)(pooled))
        for name in self.ports.numbers:
            banks, null = getattr(self, f"{name}_fourier"), getattr(self, f"null_{name}")
            parts.append(getattr(self, name)(waves(cond.parts.get(name), num, banks, null)))
        scale = math.sqrt(len(parts))
        for name in self.ports.vectors:
            if (vector := cond.value(name)) is not None:
                parts.append(getattr(self, name)(vector))
        return SILU_GAIN * nn.functional.silu(sum(parts) / scale)


def labels(part: Part | None, num: int, null: int, device: torch.device) -> Tensor:
    """The class of each row (b,) int64, or `null` where it is dropped or missing."""
    label = torch.full((num,), null, dtype=torch.int64, device=device)
    return label if part is None else torch.where(part.keep, part.value, label)


def pooled_text(part: Part | None, num: int, null_text: Tensor) -> Tensor:
    """Mean over the real tokens of each caption, scaled to unit variance, (b, d); the null vector for captions without tokens."""
    if part is None or part.mask is None:
        return null_text.expand(num, -1)
    mask = part.mask & part.keep[:, None]
    count = mask.sum(1, keepdim=True)
    mean = (part.value * mask[..., None]).sum(1) / count.clamp(min=1)
    mean = nn.functional.normalize(mean, dim=-1) * math.sqrt(mean.shape[-1])
    return torch.where(count > 0, mean, null_text)


def waves(part: Part | None, num: int, banks: Iterable[nn.Module], null: Tensor) -> Tensor:
    """Fourier features (b, k e) of the numbers (b, k) of a part, each by its own bank of e; the null vector where it is dropped."""
    if part is None:
        return null.expand(num, -1)
    features = torch.cat([bank(value) for bank, value in zip(banks, part.value.unbind(1), strict=True)], dim=1)
    return torch.where(part.keep[:, None], features, null)


def text_context(part: Part | None, num: int, null_text: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens for cross-attention (b, 1 + n, d) with their mask: the learned null token, always present, then the caption's tokens.

    A dropped or empty caption thus attends to the null token alone, and no row is fully masked.
    """
    null = null_text.expand(num, 1, -1)
    null_mask = torch.ones(num, 1, dtype=torch.bool, device=null.device)
    if part is None or part.mask is None:
        return null, null_mask
    tokens = nn.functional.normalize(part.value, dim=-1) * math.sqrt(part.value.shape[-1])
    return torch.cat([null, tokens], dim=1), torch.cat([null_mask, part.mask & part.keep[:, None]], dim=1)
