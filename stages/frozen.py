"""Frozen: weights that are never trained, held by a handle: a teacher, a feature network, an autoencoder.

A trained module must not contain them as a submodule: averages would copy them, ZeRO would expect their gradients, checkpoints and
bundles would store them. A handle is data; its network is loaded on first use, once a device and process.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import RLock
from typing import ClassVar, Generic, Self, TypeVar

import torch
from torch import nn

from data.files import file_sha256

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Frozen(Generic[M]):
    """Handle on the network in the file at `path`, which must have this sha256; `load` builds the network from the path."""

    path: Path
    sha256: str
    load: Callable[[Path], M]
    loaded: ClassVar[dict[tuple[object, ...], nn.Module]] = {}
    lock: ClassVar[RLock] = RLock()

    def check(self) -> None:
        """Check the file. Raises ValueError, one line, if it is missing or has another sha256."""
        if not self.path.is_file():
            raise ValueError(f"{self.path}: missing; copy there the file that is meant, or name where it is")
        if (digest := file_sha256(self.path)) != self.sha256:
            raise ValueError(
                f"{self.path}: its sha256 is {digest[:12]}..., {self.sha256[:12]}... is asked for; copy there the file that is "
                "meant, or write the sha256 of this one"
            )

    def on(self, device: torch.device | str) -> M:
        """Return the network on a device, in evaluation mode, without gradients. Raises ValueError like `check`.

        Loading has no side effects on the caller that happens to be first: random state, inference mode and default device are
        isolated.
        """
        key = self.load, self.sha256, torch.device(device)
        with self.lock:
            if key not in self.loaded:
                self.check()
                with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.device("cpu"):
                    self.loaded[key] = self.load(self.path).to(device).eval().requires_grad_(False)
            return self.loaded[key]  # type: ignore[return-value]

    def __deepcopy__(self, memo: object) -> Self:
        """Copies share the handle."""
        return self
