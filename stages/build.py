"""Config to stage: the one place that maps `kind` to a class."""

from .base import BaseStage
from .config import BaseConfig, SuperResConfig
from .super_res import SuperResStage


def build_stage(config: BaseConfig | SuperResConfig) -> BaseStage | SuperResStage:
    """A stage with random weights (torch's global generator; seed it first)."""
    return BaseStage(config) if isinstance(config, BaseConfig) else SuperResStage(config)
