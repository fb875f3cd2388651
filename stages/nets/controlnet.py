"""A ControlNet (Zhang et al. 2023): a trainable copy of a frozen U-Net's encoder, which also sees a map.

Its skips and its middle are added to those of the frozen encoder through 1 x 1 convolutions whose gains are 0 at the start, so it
begins as the frozen network, bit for bit. Rows without a map, and rows whose `control` is 0, always get the frozen network's
answer: the copy adds exactly 0 to them.

The frozen network is a handle (frozen.py): it is in no state, average, optimizer or partition of ZeRO.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from data.batch import Cond

from ..frozen import Frozen
from .blocks import MPWeight
from .controlnet_config import ControlNetConfig
from .ports import Ports
from .unet import UNet, UNetEncoder, children
from .unet_config import UNetConfig

MAPS = "maps"  # a part of a cond
CONTROL = "control"  # another one, (b,): what the copy's outputs are multiplied with; 1 where it is missing
PREFIX = "net."  # of the network's weights in a bundle


@dataclass(frozen=True)
class FrozenUNet:
    """Loads a U-Net from a bundle's weights, folded. ports: not compared, for they follow from the weights."""

    config: UNetConfig
    dtype: torch.dtype
    checkpointed: bool
    ports: Ports = field(compare=False)

    def __call__(self, path: Path) -> UNet:
        """The network. Raises ValueError for weights of another one."""
        net = UNet(self.config, self.ports)
        weights = {name.removeprefix(PREFIX): tensor.float() for name, tensor in load_file(path).items()}
        try:
            net.load_state_dict(weights)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"{path}: not the weights of the network that is controlled ({reason})") from None
        net.fold()
        net.compute_dtype, net.checkpointed = self.dtype, self.checkpointed
        return net


class Join(nn.Module):
    """A 1 x 1 convolution with a gain for each channel, which is 0 at the start."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = MPWeight(channels, channels, 1)
        self.gain = nn.Parameter(torch.zeros(channels, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, c, h, w) to what is added to the frozen encoder's output."""
        return self.conv(x, gain=self.gain)


class ControlNet(UNetEncoder):
    """A `Network`. ports: its own, whose last `num_maps` inputs are those that the frozen network does not have."""

    def __init__(self, config: UNetConfig, ports: Ports, num_maps: int, frozen: ControlNetConfig):
        super().__init__(config, ports)
        self.config, self.frozen = config, frozen
        self.frozen_ports = replace(ports, inputs=ports.inputs - num_maps)
        widths = config.widths
        self.joins = nn.ModuleList(
            nn.ModuleList(Join(width) for _ in range(config.merges_of(level))) for level, width in enumerate(widths)
        )
        self.join_middle = Join(widths[-1])

    @torch.compiler.disable
    def base(self, device: torch.device | str) -> UNet:
        """The frozen network on a device. Raises ValueError if its file is missing or another one."""
        if torch.device(device).type == "meta":  # costs are counted without the file
            with torch.device("meta"):
                return UNet(self.config, self.frozen_ports).requires_grad_(False)
        load = FrozenUNet(self.config, self.compute_dtype, self.checkpointed, self.frozen_ports)
        return Frozen(Path(self.frozen.base) / "ema.safetensors", self.frozen.sha256, load).on(device)

    def forward(self, x: Tensor, noise: Tensor, cond: Cond) -> Tensor:
        """Compute F in `compute_dtype`, returned as float32."""
        base, part = self.base(x.device), cond.parts.get(MAPS)
        with torch.no_grad():
            seen = base.encode(x[:, : self.frozen_ports.inputs], noise, cond)
        if part is None:
            return base.decode(seen)
        scale = cond.value(CONTROL)
        scale = part.keep.to(seen.x) if scale is None else part.keep.to(seen.x) * scale.to(seen.x)
        scale, own = scale.reshape(-1, 1, 1, 1), self.encode(x, noise, cond)
        skips = [
            [*outputs[: -len(joins)], *(a + scaled(join(b), scale) for a, b, join in taken(outputs, copied, joins))]
            for outputs, copied, joins in zip(seen.skips, own.skips, map(children, self.joins.children()), strict=True)
        ]
        return base.decode(replace(seen, x=seen.x + scaled(self.join_middle(own.x), scale), skips=skips))


def scaled(x: Tensor, scale: Tensor) -> Tensor:
    """x (b, c, h, w) times scale (b, 1, 1, 1); exactly 0 where that is 0, even if x overflowed."""
    return torch.where(scale == 0, 0.0, scale * x)


def taken(
    outputs: list[Tensor], copied: list[Tensor], joins: list[nn.Module]
) -> list[tuple[Tensor, Tensor, nn.Module]]:
    """The last outputs of a level, which the decoder takes, each with the copy's and its join."""
    num = len(joins)
    return list(zip(outputs[-num:], copied[-num:], joins, strict=True))
