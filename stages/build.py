"""Config to stage: the registry of kinds, by the word in the YAML."""

from .config import StageConfig
from .kinds.base import BaseStage
from .kinds.super_res import SuperResStage
from .stage import Stage

KINDS: dict[str, type[Stage]] = {"base": BaseStage, "super_res": SuperResStage}


def build_stage(config: StageConfig) -> Stage:
    """A stage with random weights (torch's global generator; seed it first)."""
    return KINDS[config.kind](config)
