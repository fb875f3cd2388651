"""The stages of a cascade as its manifest and its bundles describe them; no network is built with its weights."""

from dataclasses import dataclass
from pathlib import Path

import torch

from data.files import file_sha256
from stages.build import build_stage
from stages.bundle import SIDECAR, WEIGHTS, Sidecar, find_bundle, read_sidecar

from ..manifest import Manifest, StageEntry, check_chain, read_manifest


@dataclass(frozen=True, kw_only=True)
class StageFacts:
    """A stage: its place in the manifest, what its bundle says, its number of weights, bytes on disk, the folder of the bundle."""

    name: str
    entry: StageEntry
    sidecar: Sidecar
    num_parameters: int
    num_bytes: int
    bundle: Path


@dataclass(frozen=True, kw_only=True)
class Chain:
    """A cascade's manifest and stages, in order."""

    folder: Path
    manifest: Manifest
    stages: tuple[StageFacts, ...]

    @property
    def first(self) -> Sidecar:
        """What the first bundle says."""
        return self.stages[0].sidecar

    @property
    def last(self) -> Sidecar:
        """What the last bundle says."""
        return self.stages[-1].sidecar

    @property
    def has_text(self) -> bool:
        """Whether some stage reads captions."""
        return any(stage.sidecar.contract.text_encoder for stage in self.stages)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, numbers where they have none; empty without classes."""
        for stage in self.stages:
            if num := stage.sidecar.contract.num_classes:
                return stage.sidecar.provenance.classes or tuple(map(str, range(num)))
        return ()

    @property
    def fingerprints(self) -> set[str]:
        """Of the data that the stages were trained on, and that their settings were chosen on."""
        chosen_on = {stage.entry.evidence.data for stage in self.stages if stage.entry.evidence}
        return {stage.sidecar.provenance.data for stage in self.stages} | chosen_on


def read_chain(folder: Path) -> Chain:
    """Read a cascade's files. Raises ValueError if bundles are missing or changed, or do not fit together."""
    manifest = read_manifest(folder)
    stages = tuple(_read(folder, name, entry) for name, entry in manifest.stages.items())
    check_chain({stage.name: stage.sidecar.contract for stage in stages})
    return Chain(folder=folder, manifest=manifest, stages=stages)


def _read(folder: Path, name: str, entry: StageEntry) -> StageFacts:
    bundle = find_bundle(folder / entry.bundle)
    sidecar, weights = read_sidecar(bundle), bundle / WEIGHTS
    if not weights.is_file():
        raise ValueError(f"{weights}: missing; copy the bundle again")
    if file_sha256(weights) != sidecar.sha256:
        raise ValueError(f"{weights}: its sha256 is not the one in {SIDECAR}; copy the bundle again")
    with torch.device("meta"):
        num = sum(weight.numel() for weight in build_stage(sidecar.config).parameters())
    return StageFacts(
        name=name, entry=entry, sidecar=sidecar, num_parameters=num, num_bytes=weights.stat().st_size, bundle=bundle
    )
