"""Builds a stage from its config."""

from .config import StageConfig
from .stage import Stage


def build_stage(config: StageConfig) -> Stage:
    """Build a stage with random weights from torch's global generator; seed it first."""
    stage: type[Stage] = config.loaded()
    return stage(config)
