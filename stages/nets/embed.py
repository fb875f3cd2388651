"""Embeddings: what the network is told besides pixels - noise level, augmentation level, class, pooled text - as one vector (b, e).

Each part has unit variance and the parts are summed with equal weight. A row whose `cond.keep` is False gets learned null
vectors; that is condition dropout in training and the unconditional half of guidance in sampling.
"""

import math

import torch
from torch import Tensor, nn

from data.batch import Cond

from .blocks import SILU_GAIN, MPWeight


class Fourier(nn.Module):
    """Random Fourier features sqrt(2) cos(2 pi (f v + phi)) of a scalar (b,), unit variance (EDM2, eq. 75)."""

    frequency: Tensor
    phase: Tensor

    def __init__(self, num: int):
        super().__init__()
        self.register_buffer("frequency", torch.randn(num))
        self.register_buffer("phase", torch.rand(num))

    def forward(self, value: Tensor) -> Tensor:
        return math.sqrt(2) * (2 * math.pi * (value.float()[:, None] * self.frequency + self.phase)).cos()


class Embedding(nn.Module):
    """(noise (b,), aug (b,) or None, cond) to (b, e) float32."""

    def __init__(self, emb_dim: int, *, aug: bool, num_classes: int, text_dim: int):
        super().__init__()
        self.num_classes = num_classes
        self.fourier = Fourier(emb_dim)
        self.noise = MPWeight(emb_dim, emb_dim)
        self.aug_fourier = Fourier(emb_dim) if aug else None
        self.aug = MPWeight(emb_dim, emb_dim) if aug else None
        self.label = MPWeight(num_classes + 1, emb_dim) if num_classes else None  # the last row is the null class
        self.text = MPWeight(text_dim, emb_dim) if text_dim else None
        self.null_text = nn.Parameter(torch.randn(text_dim)) if text_dim else None

    def forward(self, noise: Tensor, aug: Tensor | None, cond: Cond) -> Tensor:
        parts = [self.noise(self.fourier(noise))]
        if self.aug is not None and self.aug_fourier is not None and aug is not None:
            parts.append(self.aug(self.aug_fourier(aug)))
        if self.label is not None:
            label = cond.keep.new_full(cond.keep.shape, self.num_classes, dtype=torch.int64)
            if cond.label is not None:
                label = torch.where(cond.keep, cond.label, label)
            one_hot = nn.functional.one_hot(label, self.num_classes + 1)
            parts.append(self.label(one_hot.float() * math.sqrt(self.num_classes + 1)))
        if self.text is not None and self.null_text is not None:
            parts.append(self.text(pooled_text(cond, self.null_text)))
        return SILU_GAIN * nn.functional.silu(sum(parts) / math.sqrt(len(parts)))


def pooled_text(cond: Cond, null_text: Tensor) -> Tensor:
    """Mean over the real tokens of each caption, scaled to unit variance; the null vector where there is none. (b, d)."""
    if cond.text is None or cond.text_mask is None:
        return null_text.expand(len(cond), -1)
    mask = cond.text_mask & cond.keep[:, None]
    count = mask.sum(1, keepdim=True)
    mean = (cond.text * mask[..., None]).sum(1) / count.clamp(min=1)
    mean = nn.functional.normalize(mean, dim=-1) * math.sqrt(mean.shape[-1])
    return torch.where(count > 0, mean, null_text)


def text_context(cond: Cond, null_text: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens for cross-attention (b, 1 + n, d) and their mask: the learned null token, always there, then the caption's tokens.

    So a dropped or empty caption attends to the null token alone, and no row is ever fully masked.
    """
    null = null_text.expand(len(cond), 1, -1)
    seen = torch.ones_like(cond.keep)[:, None]
    if cond.text is None or cond.text_mask is None:
        return null, seen
    tokens = nn.functional.normalize(cond.text, dim=-1) * math.sqrt(cond.text.shape[-1])
    return torch.cat([null, tokens], dim=1), torch.cat([seen, cond.text_mask & cond.keep[:, None]], dim=1)
