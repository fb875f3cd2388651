"""LPIPS 0.1 (Zhang et al. 2018): how different two pictures look, pair by pair, from local files of a backbone and its heads.

Backbones are torchvision's AlexNet and VGG-16 of ImageNet; the heads, lin0 to lin4, tell which. Both may lie in one file. At five
depths features are scaled to unit length over channels, and their squared difference is weighted by a head and averaged.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from cascade.judge.pictures import BATCH, check_pairs
from cascade.judge.weights import fill, load_weights
from data.batch import to_float

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of channels of pictures in [-1, 1]
TINY = 1e-10


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A network of torchvision: after which of its layers features are taken, their channels, the smallest picture in px."""

    name: str
    layers: tuple[int, ...]
    channels: tuple[int, ...]
    smallest: int


BACKBONES = (
    Backbone(name="alexnet", layers=(1, 4, 7, 9, 11), channels=(64, 192, 384, 256, 256), smallest=31),
    Backbone(name="vgg16", layers=(3, 8, 15, 22, 29), channels=(64, 128, 256, 512, 512), smallest=16),
)
KNOWN = {
    "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",  # alexnet-owt-7be5be79.pth
    "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",  # heads v0.1/alex.pth
    "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",  # vgg16-397923af.pth
    "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",  # heads v0.1/vgg.pth
}


class Lpips:
    """The frozen backbone and heads on a device."""

    def __init__(self, backbone: Backbone, network: nn.Module, heads: list[Tensor], sha256: str, device: str):
        self.backbone, self.sha256 = backbone, sha256
        self._network, self._heads, self._device = network.to(device), [each.to(device) for each in heads], device

    @classmethod
    def load(cls, paths: Sequence[Path], accepted: Collection[str] = (), device: str = "cpu") -> Self:
        """Load backbone and heads from one or two files. accepted: SHA-256s besides those of KNOWN. Raises ValueError."""
        files = [load_weights(path, {*KNOWN, *accepted}) for path in paths]
        where = " and ".join(map(str, paths))
        tensors = {_own_name(name): each for file in files for name, each in file.tensors.items()}
        names = [f"lin{k}.model.1.weight" for k in range(5)]
        if missing := [name for name in names if name not in tensors]:
            raise ValueError(
                f"{where}: no heads of LPIPS ({missing[0]} is missing); name backbone and heads, --lpips twice"
            )
        heads = [tensors[name].float().reshape(1, -1, 1, 1) for name in names]
        backbone = next((each for each in BACKBONES if each.channels == tuple(head.shape[1] for head in heads)), None)
        if backbone is None:
            raise ValueError(
                f"{where}: heads of another backbone; allowed are {' and '.join(each.name for each in BACKBONES)}"
            )
        with torch.device("meta"):
            network = layers_of(backbone)
        try:
            fill(network, tensors, where)
        except ValueError as error:
            raise ValueError(f"{error}: the backbone is {backbone.name}, by the heads") from None
        return cls(backbone, network.get_submodule("features"), heads, "+".join(file.sha256 for file in files), device)

    @torch.inference_mode()
    def distances(self, pictures: Tensor, references: Tensor) -> Tensor:
        """(b,) float64 of pairs of RGB pictures uint8 (b, 3, h, w); 0 for equal ones. Raises ValueError."""
        check_pairs(pictures, references)
        if pictures.shape[1] != 3 or min(pictures.shape[2:]) < self.backbone.smallest:
            _, channels, height, width = pictures.shape
            raise ValueError(
                f"LPIPS: pictures have {channels} channels and {width} x {height} px; RGB of at least {self.backbone.smallest} px "
                f"is needed by {self.backbone.name}"
            )
        pairs = zip(pictures.split(BATCH), references.split(BATCH), strict=True)
        return torch.cat([self._distances(a.to(self._device), b.to(self._device)) for a, b in pairs]).double().cpu()

    def _distances(self, a: Tensor, b: Tensor) -> Tensor:
        shift, scale = (torch.tensor(each, device=a.device).reshape(1, 3, 1, 1) for each in (SHIFT, SCALE))
        x, y = ((to_float(each) - shift) / scale for each in (a, b))
        total = torch.zeros(len(a), device=a.device)
        heads = iter(self._heads)
        for k, layer in enumerate(self._network.children()):
            x, y = layer(x), layer(y)
            if k in self.backbone.layers:
                total += (next(heads) * (_unit(x) - _unit(y)).square()).sum(dim=1).mean(dim=(1, 2))
        return total


def layers_of(backbone: Backbone) -> nn.Module:
    """The convolutions of the backbone with random weights, as `features`."""
    from torchvision import models

    whole = {"alexnet": models.alexnet, "vgg16": models.vgg16}[backbone.name]()
    return nn.ModuleDict({"features": whole.features[: backbone.layers[-1] + 1]})


def _own_name(name: str) -> str:
    """torchvision's name of a layer that LPIPS's own files call net.slice2.3.weight."""
    if not name.startswith("net.slice"):
        return name
    return f"features.{name.split('.', 2)[2]}"


def _unit(x: Tensor) -> Tensor:
    return x / (x.square().sum(dim=1, keepdim=True).sqrt() + TINY)
