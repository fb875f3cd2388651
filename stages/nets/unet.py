"""The U-Net of every stage: encoder, decoder, learned skip merges, magnitude-preserving throughout.

`patch` folds patch x patch pixels into channels before the first convolution and unfolds them after the last, so a
super-resolution stage works on a coarser grid at a fraction of the cost. Sides must be divisible by `UNetConfig.multiple`.
Without self-attention the network is local, so it can train on crops and sample whole pictures.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.batch import Cond

from .blocks import Block, MPWeight, SkipConcat, SkipMerge, double, fold_weights, half, run
from .embed import Embedding, text_context
from .ports import Ports
from .unet_config import UNetConfig


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """What the encoder hands to the decoder. x (b, c, h, w): after the middle block; skips: of each level, the finest first, what
    enters it and the output of each of its blocks; emb (b, e), context (b, n, d) and mask (b, n), for the decoder's blocks."""

    x: Tensor
    skips: list[list[Tensor]]
    emb: Tensor
    context: Tensor | None
    mask: Tensor | None


class UNetEncoder(nn.Module):
    """The encoder with its middle block and the embeddings of noise and conditions."""

    def __init__(self, config: UNetConfig, ports: Ports):
        super().__init__()
        self.patch = config.patch
        self.compute_dtype = torch.float32
        self.checkpointed = False  # recompute a block's activations in the backward pass instead of keeping them
        self.embedding = Embedding(config.emb_dim, ports)
        text_dim = ports.tokens.get("text", 0)
        self.null_token = nn.Parameter(torch.randn(text_dim)) if text_dim and config.cross_attention else None
        self.smooth = config.resample_filter == "smooth"

        widths, levels = config.widths, range(len(config.widths))
        inputs = ports.inputs * config.patch**2
        self.conv_in = MPWeight(inputs + 1, widths[0], 3)  # + 1: a constant channel stands in for biases
        self.encoder = nn.ModuleList(
            nn.ModuleList(block_of(config, text_dim, i, k, encoder=True) for k in range(config.blocks[i]))
            for i in levels
        )
        self.down = nn.ModuleList(MPWeight(widths[i], widths[i + 1], 1) for i in levels[:-1])
        self.middle = block_of(config, text_dim, len(widths) - 1)

    def encode(self, x: Tensor, noise: Tensor, cond: Cond) -> Encoded:
        """Encode x (b, c', h, w) at noise (b,) in `compute_dtype`."""
        emb = self.embedding(noise, cond).to(self.compute_dtype)
        context = mask = None
        if self.null_token is not None:
            context, mask = text_context(cond.parts.get("text"), len(cond), self.null_token)
            context = context.to(self.compute_dtype)

        x = F.pixel_unshuffle(x.to(self.compute_dtype), self.patch) if self.patch > 1 else x.to(self.compute_dtype)
        x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
        x = x.contiguous(memory_format=torch.channels_last)  # a pixel's channels side by side, from here on: faster
        x = self.conv_in(x)
        skips: list[list[Tensor]] = []
        for level, blocks in enumerate(self.encoder):
            if level:
                x = self.down[level - 1](half(x, self.smooth))
            outputs = [x]
            for block in children(blocks):
                outputs.append(x := self._run(block, x, emb, context, mask))
            skips.append(outputs)
        x = self._run(self.middle, x, emb, context, mask)
        return Encoded(x=x, skips=skips, emb=emb, context=context, mask=mask)

    def blocks(self) -> Iterator[nn.Module]:
        """Modules that activation checkpointing recomputes, see `checkpointed`."""
        return (module for module in self.modules() if isinstance(module, Block))

    def fold(self) -> None:
        """Normalise every weight in place once, for sampling; outputs do not change."""
        fold_weights(self)

    def _run(self, block: nn.Module, *inputs: Tensor | None) -> Tensor:
        return run(block, *inputs, checkpointed=self.checkpointed)


class UNet(UNetEncoder):
    """A `Network`: maps (x (b, c', h, w), noise (b,), cond) to F (b, c, h, w) float32.

    x holds the scaled noisy image and, after it in channels, the scaled low_res condition.
    """

    def __init__(self, config: UNetConfig, ports: Ports):
        super().__init__(config, ports)
        widths, levels, text_dim = config.widths, range(len(config.widths)), ports.tokens.get("text", 0)
        merge = SkipConcat if config.skip == "concat" else SkipMerge
        self.merge = nn.ModuleList(
            nn.ModuleList(merge(widths[i], config.skip_share) for _ in range(config.merges_of(i))) for i in levels
        )
        self.decoder = nn.ModuleList(
            nn.ModuleList(block_of(config, text_dim, i, k) for k in range(config.decoder[i])) for i in levels
        )
        self.up = nn.ModuleList(MPWeight(widths[i + 1], widths[i], 1) for i in levels[:-1])
        self.conv_out = MPWeight(widths[0], ports.outputs * config.patch**2, 3)
        self.out_gain = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, noise: Tensor, cond: Cond) -> Tensor:
        """Compute F in `compute_dtype`, returned as float32."""
        return self.decode(self.encode(x, noise, cond))

    def decode(self, encoded: Encoded) -> Tensor:
        """F (b, c, h, w) float32 from what the encoder, or an encoder and one beside it, found."""
        x, skips = encoded.x, [list(outputs) for outputs in encoded.skips]
        for level in reversed(range(len(self.decoder))):
            if level < len(self.up):
                x = double(self.up[level](x), self.smooth)
            for merge, block in zip_longest(children(self.merge[level]), children(self.decoder[level])):
                if merge is not None:
                    x = merge(x, skips[level].pop())
                if block is not None:
                    x = self._run(block, x, encoded.emb, encoded.context, encoded.mask)
        x = self.conv_out(x, gain=self.out_gain).float()
        return F.pixel_shuffle(x, self.patch) if self.patch > 1 else x


def block_of(config: UNetConfig, text_dim: int, level: int, number: int = 0, *, encoder: bool = False) -> Block:
    """Block `number` of a level, with the attention that the config gives it. text_dim: numbers of a text token, 0 for none."""
    window = config.window_of(level)
    return Block(
        config.widths[level],
        config.emb_dim,
        encoder=encoder,
        self_attention=level in config.self_attention,
        cross_dim=text_dim if level in config.cross_attention else 0,
        head_dim=config.head_dim_of(level),
        dropout=config.dropout,
        window=window,
        shift=window // 2 if config.shifted and number % 2 else 0,
    )


def children(modules: nn.Module) -> list[nn.Module]:
    """The modules of a ModuleList, in order."""
    return list(modules.children())
