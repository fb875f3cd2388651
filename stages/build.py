"""Config to stage."""

from .config import StageConfig
from .stage import Stage


def build_stage(config: StageConfig) -> Stage:
    """A stage with random weights (torch's global generator; seed it first)."""
    stage: type[Stage] = config.loaded()
    return stage(config)
