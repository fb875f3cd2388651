"""The base stage: p(x0 | cond), from pure noise to the lowest resolution."""

from ..stage import Stage


class BaseStage(Stage):
    """A stage with no condition but the description of the picture (class, text), if any."""
