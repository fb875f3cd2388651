"""The diffusion transformer (Peebles and Xie 2023, "DiT"), magnitude-preserving like the U-Net: no layer norm, no bias.

A picture is a sequence of patches. Noise level, class and pooled text act as per-channel gains, as in the U-Net's blocks, in
place of DiT's adaLN. Rotary positions (rotary.py) allow sizes that training has not seen. Captions may enter by cross-attention,
or as tokens of the sequence (Bao et al. 2023, "U-ViT"). The convolutional head smooths over the seams between patches.

Shapes: b images, n tokens, c channels of a token, e embedding width.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.batch import Cond

from .blocks import BRANCH_GAIN, MAIN_GAIN, SILU_GAIN, MPWeight, attend, fold_weights, run, unit_norm
from .dit_config import DiTConfig
from .embed import Embedding, text_context
from .ports import Ports
from .rotary import WAVES, places, rotated, rotations

HEAD_CHANNELS = 16  # of the convolutional head, at each px


class TokenAttention(nn.Module):
    """Cosine attention between tokens at rotary positions, or to text tokens if `context_dim` is given; the branch alone,
    not its residual sum."""

    def __init__(self, width: int, *, head_dim: int, context_dim: int = 0):
        super().__init__()
        self.num_heads = width // head_dim
        self.q = MPWeight(width, width)
        self.kv = MPWeight(context_dim or width, 2 * width)
        self.out = MPWeight(width, width)

    def forward(
        self, x: Tensor, turn: Tensor | None = None, context: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Attend from x (b, n, c) to itself, each token rotated by `turn`, or to context (b, m, d); mask (b, n or m) bool."""
        q = self._heads(self.q(x))
        k, v = (self._heads(part) for part in self.kv(x if context is None else context).chunk(2, dim=-1))
        if turn is not None:
            q, k = rotated(q, turn), rotated(k, turn)
        y = attend(q, k, v, None if mask is None else mask[:, None, None, :])
        return self.out(y.transpose(1, 2).flatten(2).to(x.dtype), gain=BRANCH_GAIN)

    def _heads(self, tokens: Tensor) -> Tensor:
        """Split (b, n, c) into (b, heads, n, head_dim), each head vector normalised."""
        return unit_norm(tokens.unflatten(-1, (self.num_heads, -1)), dim=-1).transpose(1, 2)


class DiTBlock(nn.Module):
    """Attention, cross-attention where there is a context, and a perceptron: each a residual branch. The embedding is a gain on
    the input of attention and on the hidden channels of the perceptron."""

    def __init__(self, config: DiTConfig, cross_dim: int):
        super().__init__()
        width, hidden = config.width, config.mlp * config.width
        self.emb = MPWeight(config.emb_dim, width + hidden)
        self.emb_gain = nn.Parameter(torch.zeros(1))
        self.attention = TokenAttention(width, head_dim=config.head_dim)
        self.cross_attention = (
            TokenAttention(width, head_dim=config.head_dim, context_dim=cross_dim) if cross_dim else None
        )
        self.mlp_in = MPWeight(width, hidden)
        self.mlp_out = MPWeight(hidden, width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Tensor,
        emb: Tensor,
        turn: Tensor,
        context: Tensor | None,
        context_mask: Tensor | None,
        mask: Tensor | None,
    ) -> Tensor:
        """Map tokens x (b, n, c), those under `mask` (b, n), with emb (b, e) and text tokens context (b, m, d) under context_mask
        (b, m) to tokens of the same shape."""
        x = unit_norm(x, dim=-1)
        scale = self.emb(emb, gain=self.emb_gain)[:, None] + 1  # (b, 1, c + hidden)
        outer, inner = scale.split([x.shape[-1], scale.shape[-1] - x.shape[-1]], dim=-1)
        x = torch.add(self.attention(x * outer, turn, mask=mask), x, alpha=MAIN_GAIN)
        if self.cross_attention is not None:
            x = torch.add(self.cross_attention(x, context=context, mask=context_mask), x, alpha=MAIN_GAIN)
        y = F.silu(self.mlp_in(x) * inner)
        return torch.add(self.mlp_out(self.dropout(y), gain=SILU_GAIN * BRANCH_GAIN), x, alpha=MAIN_GAIN)


class DiT(nn.Module):
    """A `Network`: maps (x (b, c', h, w), noise (b,), cond) to F (b, c, h, w) float32."""

    def __init__(self, config: DiTConfig, ports: Ports):
        super().__init__()
        self.patch, self.head_dim, self.text = config.patch, config.head_dim, config.text
        self.compute_dtype = torch.float32
        self.checkpointed = False
        area, width = config.patch**2, config.width
        text_dim = ports.tokens.get("text", 0) if config.text != "pooled" else 0
        joined_dim = text_dim if config.text == "joined" else 0
        self.embedding = Embedding(config.emb_dim, ports)
        self.null_token = nn.Parameter(torch.randn(text_dim)) if text_dim else None
        self.token_in = MPWeight(ports.inputs * area + 1 + 4 * len(WAVES), width)
        self.text_in = MPWeight(joined_dim, width) if joined_dim else None
        self.layers = nn.ModuleList(DiTBlock(config, text_dim - joined_dim) for _ in range(config.depth))
        conv = config.head == "conv"
        self.token_out = MPWeight(width, (HEAD_CHANNELS if conv else ports.outputs) * area)
        self.conv_out = MPWeight(HEAD_CHANNELS, ports.outputs, 3) if conv else None
        self.out_gain = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, noise: Tensor, cond: Cond) -> Tensor:
        """Compute F in `compute_dtype`, returned as float32."""
        dtype, rows, cols = self.compute_dtype, x.shape[-2] // self.patch, x.shape[-1] // self.patch
        emb = self.embedding(noise, cond).to(dtype)
        context = context_mask = mask = None
        if self.null_token is not None:
            context, context_mask = text_context(cond.parts.get("text"), len(cond), self.null_token)
            context = context.to(dtype)

        patches = F.pixel_unshuffle(x.to(dtype), self.patch).flatten(2).transpose(1, 2)  # (b, n, c' p p)
        place = places(rows, cols, x.device).to(dtype).expand(len(x), -1, -1)
        tokens = self.token_in(torch.cat([patches, place], dim=-1))
        num_text = 0
        if self.text_in is not None and context is not None and context_mask is not None:
            num_text = context.shape[1]
            tokens = torch.cat([self.text_in(context), tokens], dim=1)
            mask = F.pad(context_mask, (0, rows * cols), value=True)
            context = context_mask = None
        turn = rotations(rows, cols, self.head_dim, x.device, before=num_text).to(dtype)
        for block in self.layers.children():
            tokens = run(block, tokens, emb, turn, context, context_mask, mask, checkpointed=self.checkpointed)
        return self._picture(tokens[:, num_text:], rows, cols)

    def _picture(self, tokens: Tensor, rows: int, cols: int) -> Tensor:
        """F (b, c, h, w) float32 of the picture's tokens (b, n, c)."""
        linear = self.conv_out is None
        tokens = self.token_out(tokens, gain=self.out_gain if linear else 1.0)
        x = F.pixel_shuffle(tokens.transpose(1, 2).unflatten(2, (rows, cols)), self.patch)
        if self.conv_out is None:
            return x.float()
        return self.conv_out(F.silu(x), gain=self.out_gain * SILU_GAIN).float()

    def blocks(self) -> Iterator[nn.Module]:
        """Modules that activation checkpointing recomputes."""
        return self.layers.children()

    def fold(self) -> None:
        """Normalise every weight in place once, for sampling; outputs do not change."""
        fold_weights(self)
