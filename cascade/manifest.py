"""cascade.json: which bundles form a cascade, in order, and the sampling settings of each. Written by train.py, read by sampling."""

from pathlib import Path

from stages.config import SampleConfig, Strict
from stages.training.rundir import replace_text

from .config import CascadeConfig

MANIFEST = "cascade.json"


class StageEntry(Strict):
    """bundle: folder relative to the manifest. sample: settings of this stage in this cascade."""

    bundle: str
    sample: SampleConfig


class Manifest(Strict):
    version: int = 1
    name: str
    stages: dict[str, StageEntry]


def write_manifest(config: CascadeConfig, folder: Path) -> None:
    """FOLDER/cascade.json for the runs FOLDER/STAGE; the same whichever stage's run writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = {name: StageEntry(bundle=f"{name}/bundle", sample=stage.sample) for name, stage in config.stages.items()}
    replace_text(folder / MANIFEST, Manifest(name=config.name, stages=entries).model_dump_json(indent=2) + "\n")
