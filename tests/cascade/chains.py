"""Cascades for tests: ideal ones over a finite set of pictures, tiny ones with random weights, and folders of such bundles."""

import re
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cascade.config import CascadeConfig
from cascade.engine.host import own_host
from cascade.events import Event, Finished, Preview, StageFinished, StageStarted
from cascade.manifest import write_manifest
from cascade.pipeline import Cascade, Link
from data.batch import to_float
from stages.build import build_stage
from stages.bundle import Provenance, Sidecar, make_contract, save_bundle
from stages.config import AugConfig, BaseConfig, CondConfig, SampleConfig, StageConfig, SuperResConfig, TextConfig
from stages.nets.unet_config import UNetConfig
from tests.worlds import finite_cascade

LETTERS = {StageStarted: "S", Preview: "P", StageFinished: "F", Finished: "E"}
ENCODER = (
    "minilm-192005b91631"  # the text encoder that tiny text cascades say they were trained with: the installed one
)
TEXT = TextConfig(encoder="minilm", dim=384, tokens=6)
STYLES = ("fluent 3d", "noto", "twemoji")  # the classes of `write_both`
FEW_STEPS = {"num_steps": 2, "sigma_max": 5.0, "sigma_min": 0.02}


def pictures(num: int, side: int, seed: int = 0) -> Tensor:
    """(num, 3, side, side) in [-1, 1] on the levels of uint8, so that a perfect sampler gives them back exactly."""
    generator = torch.Generator().manual_seed(seed)
    return to_float(torch.randint(0, 256, (num, 3, side, side), generator=generator).to(torch.uint8))


def sidecar(config: StageConfig, *, text_encoder: str | None = None, classes: tuple[str, ...] | None = None) -> Sidecar:
    """What a bundle of this config would say about itself."""
    return Sidecar(
        config=config,
        contract=make_contract(config, text_encoder),
        provenance=Provenance(nimg=0, ema=1, data="none", classes=classes, versions={}),
        sha256="0" * 64,
    )


def ideal(
    images: Tensor,
    sizes: tuple[int, ...] = (8, 16, 32),
    labels: Tensor | None = None,
    patch: int = 1,
    **sample: Any,
) -> Cascade:
    """A cascade over a finite set of pictures with no training at all; sample: settings of every stage.

    patch: what the bundles say about networks, which decides the sizes that are allowed.
    """
    stages = finite_cascade(images, sizes, labels=labels, sample=SampleConfig(**sample))
    links = []
    for name, stage in stages.items():
        config = stage.config.model_copy(update={"net": stage.config.net.model_copy(update={"patch": patch})})
        links.append(Link(name=name, hosts=own_host(name, stage), sidecar=sidecar(config), settings=config.sample))
    return Cascade(links)


def tiny_config(
    *sizes: int, classes: int = 0, text: TextConfig | None = None, channels: int = 3, name: str = "tiny", **sample: Any
) -> CascadeConfig:
    """base_8 -> sr_16 -> ..., whose networks have a few thousand weights."""
    sizes = sizes or (8, 16)
    shared = {
        "channels": channels,
        "net": UNetConfig(widths=(8, 16), blocks=(1, 1), emb_dim=16),
        "cond": CondConfig(num_classes=classes, text=text),
        "sample": SampleConfig(**(FEW_STEPS | sample)),
    }
    stages: dict[str, StageConfig] = {f"base_{sizes[0]}": BaseConfig(resolution=sizes[0], **shared)}
    for low_res, size in pairwise(sizes):
        config = SuperResConfig(resolution=size, low_res=low_res, aug=AugConfig(max_sigma=1.0), **shared)
        stages[f"sr_{size}"] = config
    return CascadeConfig(name=name, stages=stages)


def random_weights(config: StageConfig, seed: int = 0) -> dict[str, Tensor]:
    """Weights of an untrained stage whose outputs matter: gains that start at 0 are moved to 1."""
    torch.manual_seed(seed)
    weights = build_stage(config).state_dict()
    return {name: torch.ones_like(w) if name.endswith("gain") else w for name, w in weights.items()}


def tiny(*sizes: int, **options: Any) -> Cascade:
    """A cascade of random networks, in memory."""
    links = []
    for name, config in tiny_config(*sizes, **options).stages.items():
        stage = build_stage(config)
        stage.load_state_dict(random_weights(config))
        record = sidecar(config, text_encoder=ENCODER if config.cond.text else None)
        links.append(Link(name=name, hosts=own_host(name, stage.eval()), sidecar=record, settings=config.sample))
    return Cascade(links)


def write_bundle(
    folder: Path, config: StageConfig, *, text_encoder: str | None = None, classes=None, seed: int = 0
) -> Path:
    """FOLDER as training would leave it, with random weights."""
    provenance = Provenance(nimg=100, ema=1, data="none", classes=classes, versions={})
    save_bundle(folder, random_weights(config, seed), config=config, text_encoder=text_encoder, provenance=provenance)
    return folder


def write_cascade(folder: Path, config: CascadeConfig, *, classes: tuple[str, ...] | None = None) -> Path:
    """A folder as the runs of all stages would leave it."""
    write_manifest(config, folder)
    for name, stage in config.stages.items():
        text_encoder = ENCODER if stage.cond.text else None
        write_bundle(folder / name / "bundle", stage, text_encoder=text_encoder, classes=classes)
    return folder


def write_both(folder: Path) -> Path:
    """A folder with a cascade whose stages all take a caption and a style."""
    return write_cascade(folder, tiny_config(8, 16, classes=len(STYLES), text=TEXT, name="both"), classes=STYLES)


def spelled(events: Iterable[Event]) -> str:
    """One letter an event: S tarted, P review, F inished stage, E nd."""
    return "".join(LETTERS[type(event)] for event in events)


def follows_grammar(events: list[Event], num_stages: int) -> bool:
    return re.fullmatch(f"((SP+F){{{num_stages}}})+E", spelled(events)) is not None


def finished(events: Iterable[Event], stage: str = "") -> Tensor:
    """uint8 (num, c, h, w): all pictures of a stage, by default the last one's, in the order of the request."""
    return torch.cat(
        [e.images for e in events if isinstance(e, StageFinished) and (e.stage == stage if stage else e.last)]
    )


def levels_apart(a: Tensor, b: Tensor) -> int:
    """The largest difference of two uint8 pictures."""
    return int((a.int() - b.int()).abs().max())
