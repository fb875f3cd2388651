"""Magnitude-preserving building blocks (Karras et al. 2024, "EDM2", config G): no normalisation layer, no bias.

If the inputs of a block have unit variance, so have its outputs, at initialisation and all through training, because every weight
is normalised per output filter where it is used (eq. 47 and 66) and every sum is divided by the resulting std.
Differences to EDM2: weights are not written back normalised after each update, because ZeRO keeps them flattened elsewhere; their
norm then grows by itself as lr * sqrt(updates), a 1/sqrt decay of the effective learning rate that the schedule may sharpen. Skips
are merged by a learned lerp instead of a concatenation, at half the cost of the decoder's first convolutions.

Shapes: b images, c channels, h x w pixels, e embedding width, n text tokens.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

SILU_GAIN = 1 / 0.596  # SiLU of a standard normal input has root-mean-square 0.596 (EDM2, eq. 81)
RESIDUAL = 0.3  # weight t of a block's branch in its sum with the main path (EDM2, table 21)


def unit_norm(x: Tensor, dim: int, tiny: float = 1e-4) -> Tensor:
    """Scale x to root-mean-square 1 over `dim`."""
    norm = torch.linalg.vector_norm(x, dim=dim, keepdim=True, dtype=torch.float32)
    return x * (x.shape[dim] ** 0.5 / (norm + tiny)).to(x.dtype)


def lerp_gains(t: float) -> tuple[float, float]:
    """Factors of a and b in the magnitude-preserving sum ((1 - t) a + t b) / sqrt((1 - t)^2 + t^2) (EDM2, eq. 88)."""
    scale = ((1 - t) ** 2 + t**2) ** -0.5
    return (1 - t) * scale, t * scale


MAIN_GAIN, BRANCH_GAIN = lerp_gains(RESIDUAL)


class MPWeight(nn.Module):
    """A linear map or convolution with its weight normalised per output filter. kernel 0 is linear, on (b, ..., c).

    `gain` multiplies the weight, which is cheaper than multiplying activations: it carries the constants of SiLU and of
    residual sums. `fold` replaces the weight by its normalised form for good, which saves work in sampling; outputs stay the
    same.
    """

    def __init__(self, num_in: int, num_out: int, kernel: int = 0):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_out, num_in, *[kernel] * 2 * (kernel > 0)))
        self.folded = False

    def normalised(self, gain: float | Tensor = 1.0) -> Tensor:
        """The weight with each filter at norm `gain`: unit-variance inputs give outputs of variance gain^2."""
        norms = self.weight.new_ones(len(self.weight), *[1] * (self.weight.ndim - 1)) * gain
        return torch._weight_norm(self.weight, norms, 0)  # one fused pass, as in torch's weight_norm parametrization

    def fold(self) -> None:
        """Replace the weight by its normalised form, once."""
        if not self.folded:
            self.weight.data = self.normalised()
            self.folded = True

    def forward(self, x: Tensor, gain: float | Tensor = 1.0) -> Tensor:
        """Apply the normalised weight times `gain` to x, in the dtype of x."""
        weight = (self.weight * gain if self.folded else self.normalised(gain)).to(x.dtype)
        if weight.ndim == 2:
            return F.linear(x, weight)
        return F.conv2d(x, weight, padding=weight.shape[-1] // 2)


class Attention(nn.Module):
    """Cosine attention over pixels, or from pixels to text tokens if `context_dim` is given; residual, magnitude-preserving.

    window: pixels attend within windows of this side alone (0: to the whole picture). The grid of windows begins `shift` pixels
    outside of the picture's corner (Liu et al. 2021, "Swin", here without wrapping around); windows over an edge are smaller.
    """

    def __init__(self, channels: int, *, head_dim: int, context_dim: int = 0, window: int = 0, shift: int = 0):
        super().__init__()
        self.num_heads = channels // head_dim
        self.window, self.shift = window, shift
        self.q = MPWeight(channels, channels)
        self.kv = MPWeight(context_dim or channels, 2 * channels)
        self.out = MPWeight(channels, channels)

    def forward(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Attend from x (b, c, h, w) to itself, or to context (b, n, d) under mask (b, n) bool."""
        if not self.window:
            return self._whole(x, context, mask)
        windows, inside = cut(x, self.window, self.shift)
        return joined(self._whole(windows, None, inside), x, self.shift)

    def _whole(self, x: Tensor, context: Tensor | None, mask: Tensor | None) -> Tensor:
        b, c, h, w = x.shape
        pixels = x.flatten(2).transpose(1, 2)  # (b, hw, c)
        q = self._heads(self.q(pixels))
        k, v = (self._heads(part) for part in self.kv(pixels if context is None else context).chunk(2, dim=-1))
        y = attend(q, k, v, None if mask is None else mask[:, None, None, :])
        y = self.out(y.transpose(1, 2).flatten(2).to(x.dtype), gain=BRANCH_GAIN)
        return torch.add(y, pixels, alpha=MAIN_GAIN).transpose(1, 2).reshape(b, c, h, w)

    def _heads(self, tokens: Tensor) -> Tensor:
        """Split (b, n, c) into (b, heads, n, head_dim), each head vector normalised."""
        return unit_norm(tokens.unflatten(-1, (self.num_heads, -1)), dim=-1).transpose(1, 2)


def cut(x: Tensor, side: int, shift: int) -> tuple[Tensor, Tensor | None]:
    """The windows (b n, c, side, side) of x (b, c, h, w), and which of their pixels are in the picture (b n, side^2) bool, None
    for all. The grid begins at (-shift, -shift)."""
    b, _, h, w = x.shape
    edges = (shift, -(w + shift) % side, shift, -(h + shift) % side)

    def windows(image: Tensor) -> Tensor:
        grid = F.pad(image, edges).unflatten(3, (-1, side)).unflatten(2, (-1, side))  # (b, c, rows, side, cols, side)
        return grid.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)

    if not any(edges):
        return windows(x), None
    return windows(x), windows(x.new_ones(1, 1, h, w)).flatten(1).bool().repeat(b, 1)


def joined(windows: Tensor, like: Tensor, shift: int) -> Tensor:
    """The picture of the shape of `like` whose `cut` the windows are."""
    (b, _, h, w), side = like.shape, windows.shape[-1]
    rows, cols = -(-(h + shift) // side), -(-(w + shift) // side)
    grid = windows.unflatten(0, (b, rows, cols)).permute(0, 3, 1, 4, 2, 5)
    return grid.flatten(4, 5).flatten(2, 3)[..., shift : shift + h, shift : shift + w]


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Compute softmax(q k^T / sqrt(d)) v over (b, heads, n, d). Written out on a CPU, where the backward pass of torch's fused
    kernel was measured five times slower for sequences this short (tests/bench/bench_attention.py)."""
    if q.device.type != "cpu":
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    logits = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    return (logits if mask is None else logits.masked_fill(~mask, -torch.inf)).softmax(-1) @ v


class Block(nn.Module):
    """Residual block: noise embedding as a per-channel gain, attention at the configured levels (EDM2, figure 21).

    Encoder blocks first normalise each pixel's channels, which stops magnitudes from growing along the main path.
    """

    def __init__(
        self,
        channels: int,
        emb_dim: int,
        *,
        encoder: bool,
        self_attention: bool,
        cross_dim: int,
        head_dim: int,
        dropout: float,
        window: int = 0,
        shift: int = 0,
    ):
        super().__init__()
        self.encoder = encoder
        self.conv0 = MPWeight(channels, channels, 3)
        self.conv1 = MPWeight(channels, channels, 3)
        self.emb = MPWeight(emb_dim, channels)
        self.emb_gain = nn.Parameter(torch.zeros(1))  # shape (1,): DeepSpeed cannot send 0-dimensional tensors
        self.dropout = nn.Dropout(dropout)
        self.self_attention = (
            Attention(channels, head_dim=head_dim, window=window, shift=shift) if self_attention else None
        )
        self.cross_attention = Attention(channels, head_dim=head_dim, context_dim=cross_dim) if cross_dim else None

    def forward(self, x: Tensor, emb: Tensor, context: Tensor | None, mask: Tensor | None) -> Tensor:
        """Map x (b, c, h, w) with emb (b, e) and text tokens context (b, n, d), mask (b, n) to x of the same shape."""
        if self.encoder:
            x = unit_norm(x, dim=1)
        scale = self.emb(emb, gain=self.emb_gain) + 1  # (b, c)
        y = self.conv0(F.silu(x), gain=SILU_GAIN) * scale[:, :, None, None]
        y = self.conv1(self.dropout(F.silu(y)), gain=SILU_GAIN * BRANCH_GAIN)
        x = torch.add(y, x, alpha=MAIN_GAIN)
        if self.self_attention is not None:
            x = self.self_attention(x)
        if self.cross_attention is not None:
            x = self.cross_attention(x, context, mask)
        return x


class SkipMerge(nn.Module):
    """Learned lerp between the decoder's x and the encoder's skip, one balance a channel. share: of the skip at the start."""

    def __init__(self, channels: int, share: float = 0.5):
        super().__init__()
        self.balance = nn.Parameter(torch.full((channels,), math.log(share / (1 - share))))

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Merge two tensors (b, c, h, w)."""
        t = self.balance.sigmoid()[:, None, None]
        scale = ((1 - t).square() + t.square()).rsqrt()
        return x * ((1 - t) * scale).to(x.dtype) + skip * (t * scale).to(x.dtype)


class SkipConcat(nn.Module):
    """Magnitude-preserving concatenation of x and skip (EDM2, eq. 103), and a 1 x 1 convolution back to the channels of one."""

    def __init__(self, channels: int, share: float = 0.5):
        super().__init__()
        self.conv = MPWeight(2 * channels, channels, 1)
        self.gains = tuple(2**0.5 * gain for gain in lerp_gains(share))  # of equal widths: sqrt(2) in all

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Merge two tensors (b, c, h, w)."""
        return self.conv(torch.cat([x * self.gains[0], skip * self.gains[1]], dim=1))


def half(x: Tensor, smooth: bool = False) -> Tensor:
    """Shrink (b, c, h, w) to (b, c, h / 2, w / 2) by a box of two; smooth: by the binomial filter [1, 3, 3, 1], which aliases less
    (Karras et al. 2020, "StyleGAN2"), with the edge's pixels repeated."""
    if not smooth:
        return F.avg_pool2d(x, 2)
    taps = (4 - 2 * (torch.arange(4, device=x.device) - 1.5).abs()) / 8
    kernel = (taps[:, None] * taps).to(x.dtype).expand(x.shape[1], 1, 4, 4)
    return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), kernel, stride=2, groups=x.shape[1])


def double(x: Tensor, smooth: bool = False) -> Tensor:
    """Enlarge (b, c, h, w) to (b, c, 2 h, 2 w), by the same filter."""
    if not smooth:
        return F.interpolate(x, scale_factor=2, mode="nearest")
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)  # of weights 3/4 and 1/4


def run(block: nn.Module, *inputs: Tensor | None, checkpointed: bool) -> Tensor:
    """Call a block; with `checkpointed` its activations are computed again in the backward pass instead of being kept."""
    if checkpointed and torch.is_grad_enabled():
        return checkpoint(block, *inputs, use_reentrant=False)
    return block(*inputs)


def fold_weights(net: nn.Module) -> None:
    """Fold every MPWeight of a network for sampling; its outputs do not change."""
    for module in net.modules():
        if isinstance(module, MPWeight):
            module.fold()
