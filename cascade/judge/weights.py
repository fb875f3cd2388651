"""Weights of published networks from local files: nothing is downloaded, and nothing in a file is executed.

Numbers of other weights do not compare, so a file counts only if its SHA-256 is the published one's, or one that the user names.
"""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from data.files import file_sha256


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Tensors by name, and the SHA-256 of the file that they come from."""

    tensors: dict[str, Tensor]
    sha256: str


def load_weights(path: Path, known: Collection[str]) -> Weights:
    """Read a state dict: .safetensors, or what torch.save wrote. known: the SHA-256s of which the file must have one.

    Raises ValueError, in one line, for a file that is missing, another one, or holds anything but tensors.
    """
    if not path.is_file():
        raise ValueError(f"{path} is no file; name the weights' file")
    sha256 = file_sha256(path)
    if sha256 not in known:
        raise ValueError(
            f"{path}: sha256 {sha256} is not that of the published file; if you trust it: --sha256 {sha256}"
        )
    try:
        tensors = _read(path)
    except Exception as error:  # torch raises what its unpickler meets, and refuses code by an exception of pickle
        cause = " ".join(str(error).split())[:120]
        raise ValueError(f"{path}: no weights that can be read without running code ({cause})") from None
    if not isinstance(tensors, dict) or not tensors or not all(isinstance(each, Tensor) for each in tensors.values()):
        raise ValueError(f"{path}: holds no tensors by name; a state dict is needed")
    if bad := [name for name, each in tensors.items() if not each.isfinite().all()]:
        raise ValueError(f"{path}: {bad[0]} has NaN or inf; fetch the file again")
    return Weights(tensors=dict(tensors), sha256=sha256)


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors":
        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def fill(network: torch.nn.Module, tensors: dict[str, Tensor], where: str) -> None:
    """Put float32 tensors into a network that was built on the meta device, and freeze it. Counts of batches may be missing.

    Raises ValueError, beginning with `where`, if names or shapes are not those of the network.
    """
    wanted = network.state_dict()
    counts = {name: torch.zeros((), dtype=torch.int64) for name in wanted if name.endswith("num_batches_tracked")}
    for name, each in wanted.items():
        if name in counts:
            continue
        if name not in tensors:
            raise ValueError(f"{where}: lacks {name}; the weights are of another network")
        if tensors[name].shape != each.shape:
            raise ValueError(f"{where}: {name} is {tuple(tensors[name].shape)}; {tuple(each.shape)} is needed")
    found = {name: tensors[name].float() for name in wanted if name not in counts}
    network.load_state_dict(found | counts, assign=True)
    network.eval().requires_grad_(False)
