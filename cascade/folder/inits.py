"""Which stages start from a bundle: a super-resolution stage if that bundle already is better here than the linear floor, the loss
of F = 0; a base stage only where there are few pictures with the same condition, or where the user named the bundle.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from data.batch import Batch
from data.index import Index
from data.read.shards import read_split
from stages.build import build_stage
from stages.bundle import Sidecar, read_sidecar, read_weights
from stages.config import StageConfig
from stages.training.start import check_fits, licence_of

from ..manifest import read_manifest
from .networks import config_of

TRIED = 64  # pictures
FEW = 500  # pictures, below which a base stage starts from another one


@dataclass(frozen=True, kw_only=True)
class Init:
    """A bundle to start from, the network that it needs, and why."""

    bundle: Path
    net: dict[str, Any]
    reason: str


def find_init(
    stage: dict[str, Any], cascade: Path, data: Path, index: Index, *, named: bool
) -> tuple[Init | None, str]:
    """The bundle of `cascade` that a stage should start from, or None, and why. named: whether the user chose the cascade."""
    reasons = ["no stage of that kind there"]
    for name, entry in read_manifest(cascade).stages.items():
        bundle = cascade / entry.bundle
        sidecar = read_sidecar(bundle)
        if sidecar.config.kind != stage["kind"] or sidecar.config.resolution != stage["resolution"]:
            continue
        net = sidecar.config.net.model_dump(mode="json", exclude_defaults=True)
        config = config_of(stage | {"net": net, "train": {"init": str(bundle)}})
        try:
            check_fits(config, index, sidecar)
        except ValueError as error:
            reasons = [f"{name} of {cascade.name}: {str(error).partition(': ')[2].partition(';')[0]}"]
            continue
        why = _worth(config, sidecar, data, index, named=named)
        if why.startswith("no"):
            reasons = [why]
            continue
        licence = licence_of(bundle) or "not stated there"
        return Init(
            bundle=bundle, net=net, reason=f"{name} of {cascade.name}: {why}; its licence goes on: {licence}"
        ), ""
    return None, reasons[-1]


def _worth(config: StageConfig, sidecar: Sidecar, data: Path, index: Index, *, named: bool) -> str:
    """Why to start from a bundle; begins with "no" if not to."""
    if config.takes is None:
        names = sidecar.provenance.classes
        if names and tuple(index.classes or ()) != names:
            return "no: its classes are others"
        pictures = index.num_images.get("train", 0)
        if not named and pictures >= FEW:
            return f"no: {pictures:,} pictures suffice to begin from nothing"
        return f"{pictures:,} pictures are few" if pictures < FEW else "as asked for"
    loss, floor = losses(config, data, Path(config.train.init))
    told = f"its loss on {TRIED} of the pictures is {loss:.2f}, a linear filter's {floor:.2f}"
    return told if loss < floor else f"no: {told}"


@torch.no_grad()
def losses(config: StageConfig, data: Path, bundle: Path) -> tuple[float, float]:
    """Mean losses of a bundle's weights in a stage of this config, and of F = 0, on the first pictures with equal draws."""
    stage = build_stage(config).eval()
    batches = list(
        read_split(
            str(data), "train", batch=16, resolution=config.resolution, limit=TRIED, label=config.cond.num_classes > 0,
            text_tokens=config.cond.text.tokens if config.cond.text else 0,
        )
    )  # fmt: skip
    floor = _mean(stage, batches)
    stage.load_state_dict(read_weights(bundle))
    return _mean(stage, batches), floor


def _mean(stage: torch.nn.Module, batches: list[Batch]) -> float:
    return torch.cat([stage(batch, 0).per_image for batch in batches]).mean().item()
