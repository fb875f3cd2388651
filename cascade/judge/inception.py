"""Inception features (Szegedy et al. 2016) as FID and IS are measured in papers: TensorFlow's network of 2015, from a local file.

The file is that of torch-fidelity and pytorch-fid, pt_inception-2015-12-05-6726825d.pth; the network is torchvision's, pooled as
TensorFlow does: means leave the border out, the last block takes maxima, and pictures are enlarged from their corner without
antialiasing. IS takes logits without bias. Features (b, 2048), logits (b, 1008).
"""

from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cascade.judge.moments import Ruler
from cascade.judge.pictures import check_pictures
from cascade.judge.weights import fill, load_weights

SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
DIMENSIONS, CLASSES = 2048, 1008
SIDE = 299  # px
BATCH = 16  # pictures at once: 0.4 GB


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What Inception makes of n pictures, float64: features (n, 2048), logits (n, 1008)."""

    features: Tensor
    logits: Tensor


class Inception:
    """The frozen network on a device."""

    def __init__(self, network: nn.Module, classes: Tensor, sha256: str, device: str):
        self._network, self._classes, self._device = network.to(device), classes.to(device), device
        self.sha256 = sha256

    @classmethod
    def load(cls, path: Path, accepted: Collection[str] = (), device: str = "cpu") -> Self:
        """Load the file. accepted: SHA-256s of others that may take its place. Raises ValueError."""
        weights = load_weights(path, {SHA256, *accepted})
        with torch.device("meta"):
            network = architecture()
        fill(network, weights.tensors, str(path))
        classes = network.get_parameter("fc.weight")
        network.fc = nn.Identity()
        return cls(network, classes, weights.sha256, device)

    @property
    def ruler(self) -> Ruler:
        """Name and hash, for statistics files."""
        return Ruler(name="inception-2015-12-05", sha256=self.sha256)

    @torch.inference_mode()
    def see(self, pictures: Tensor) -> Seen:
        """Features and logits of RGB pictures uint8 (n, 3, h, w)."""
        check_pictures(pictures, "Inception")
        if pictures.shape[1] != 3:
            raise ValueError(f"Inception: pictures have {pictures.shape[1]} channels; RGB is needed, convert them")
        parts = [self._network(enlarge(part.to(self._device))) for part in pictures.split(BATCH)]
        features = torch.cat(parts)
        return Seen(features=features.double().cpu(), logits=(features @ self._classes.T).double().cpu())


def architecture() -> nn.Module:
    """The network with random weights; its names are those of the file."""
    from torchvision.models import inception as blocks

    class A(_Pooled, blocks.InceptionA):
        pass

    class C(_Pooled, blocks.InceptionC):
        pass

    class E(_Pooled, blocks.InceptionE):
        pass

    class Last(E):
        pool = staticmethod(partial(F.max_pool2d, kernel_size=3, stride=1, padding=1))

    kinds = [blocks.BasicConv2d, A, blocks.InceptionB, C, blocks.InceptionD, E, blocks.InceptionAux]
    network = blocks.Inception3(CLASSES, aux_logits=False, inception_blocks=kinds, init_weights=False)
    network.Mixed_7c = Last(2048)
    return network


class _Pooled(nn.Module):
    """Replaces the last branch of a block of torchvision by one that pools otherwise."""

    pool = staticmethod(partial(F.avg_pool2d, kernel_size=3, stride=1, padding=1, count_include_pad=False))

    def _forward(self, x: Tensor) -> list[Tensor]:
        *others, _ = super()._forward(x)  # type: ignore[misc]
        return [*others, self.get_submodule("branch_pool")(self.pool(x))]


def enlarge(pictures: Tensor) -> Tensor:
    """uint8 (b, c, h, w) at 299 x 299 px in [-1, 1), bilinear as in TensorFlow 1: pixel k lies at k * h / 299, no antialiasing."""
    rows, columns = (_taps(side).to(pictures.device) for side in pictures.shape[2:])
    return (rows @ pictures.float() @ columns.T - 128) / 128


def _taps(side: int) -> Tensor:
    """The matrix (299, side) that enlarges an axis."""
    place = torch.arange(SIDE, dtype=torch.float32) * (side / SIDE)
    low = place.long().clamp(max=side - 1)
    high = (low + 1).clamp(max=side - 1)
    share = (place - low)[:, None]
    return F.one_hot(low, side) * (1 - share) + F.one_hot(high, side) * share
