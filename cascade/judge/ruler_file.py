"""A ruler as one safetensors file: tensors, and in its metadata what is known of the pictures, with a hash over both."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from cascade.judge.describe import DESCRIPTION
from cascade.judge.labelled import Row
from cascade.judge.ruler import FORMS, Embedding, Projection, ThingRuler
from data.files import replace_bytes

SAID = "ruler"  # the one key of the metadata: several are written in any order


def save_ruler(path: Path, ruler: ThingRuler) -> None:
    """Write a ruler, whole or not at all."""
    said = {SAID: json.dumps(ruler.said() | {"sha256": ruler.sha256}, sort_keys=True)}
    replace_bytes(path, save(ruler.tensors(), metadata=said))


def load_ruler(path: Path) -> ThingRuler:
    """Read a ruler. Raises ValueError for what is no ruler, of another version, or not what its hash says; OSError."""
    if not path.is_file():
        raise ValueError(f"{path} is no file; train a ruler with: python -m cascade.judge ruler SHARDS --out FOLDER")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
        said = json.loads(metadata[SAID])
    except (SafetensorError, KeyError, ValueError) as error:
        raise ValueError(f"{path}: no ruler, or damaged ({type(error).__name__}); train it again") from None
    if said.get("description") != DESCRIPTION:
        raise ValueError(
            f"{path}: describes pictures by {said.get('description')}, here it is {DESCRIPTION}; train it again"
        )
    try:
        ruler = _ruler(said, tensors)
    except (KeyError, TypeError, ValueError, RuntimeError, IndexError) as error:
        raise ValueError(f"{path}: no ruler, or damaged ({type(error).__name__}); train it again") from None
    if ruler.sha256 != said.get("sha256"):
        raise ValueError(
            f"{path}: is not what its hash says ({ruler.sha256[:12]}, not {str(said.get('sha256'))[:12]}): it was changed; "
            "train it again"
        )
    return ruler


def _ruler(said: dict[str, Any], tensors: dict[str, Tensor]) -> ThingRuler:
    if any(tensor.dtype != torch.float32 or not tensor.isfinite().all() for tensor in tensors.values()):
        raise ValueError("not finite float32 numbers")
    if said["form"] not in FORMS:
        raise ValueError("form")
    first, second, third = said["background"]
    thing, style = tensors["known.thing"].double(), tensors["known.style"].double()
    known = tuple(Row(**dict(zip(vars(Row(name="")), row, strict=True))) for row in said["known"])
    if not len(known) == len(thing) == len(style):
        raise ValueError("rows")
    return ThingRuler(
        form=said["form"],
        size=int(said["size"]),
        background=(first, second, third),
        styles=tuple(said["styles"]),
        things=tuple(said["things"]),
        known=known,
        embedded=Embedding(thing=thing, style=style),
        to_thing=Projection(mean=tensors["thing.mean"], matrix=tensors["thing.matrix"]),
        to_style=Projection(mean=tensors["style.mean"], matrix=tensors["style.matrix"]),
        data=said["data"],
    )
