"""The base stage: p(x0 | cond), from pure noise to the lowest resolution."""

from ..stage import Stage


class BaseStage(Stage):
    """Given what describes the picture, and nothing else."""
