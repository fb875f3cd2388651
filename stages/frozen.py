"""Weights that nobody trains, held by a handle: a teacher, a network of features, an autoencoder.

What trains never has them as a module: averages would copy them, ZeRO would look for their gradients, checkpoints and bundles would
keep them. A handle is data; its network is loaded where it is first needed, once a device and process.
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
    """The network of the file at `path`, whose sha256 must be this, as `load` makes it of the path."""

    path: Path
    sha256: str
    load: Callable[[Path], M]
    loaded: ClassVar[dict[tuple[object, ...], nn.Module]] = {}
    lock: ClassVar[RLock] = RLock()

    def check(self) -> None:
        """Raises ValueError, one line, where the file is missing or another one."""
        if not self.path.is_file():
            raise ValueError(f"{self.path}: missing; copy there the file that is meant, or name where it is")
        if (found := file_sha256(self.path)) != self.sha256:
            raise ValueError(
                f"{self.path}: its sha256 is {found[:12]}..., {self.sha256[:12]}... is asked for; copy there the file that is "
                "meant, or write the sha256 of this one"
            )

    def on(self, device: torch.device | str) -> M:
        """The network there, in evaluation mode, its parameters without gradients. Raises ValueError like `check`.

        Loading leaves no trace in the code that happens to be first: neither its random numbers nor its modes reach in or out.
        """
        key = self.load, self.sha256, torch.device(device)
        with self.lock:
            if key not in self.loaded:
                self.check()
                with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.device("cpu"):
                    self.loaded[key] = self.load(self.path).to(device).eval().requires_grad_(False)
            return self.loaded[key]  # type: ignore[return-value]

    def __deepcopy__(self, memo: object) -> Self:
        return self
