"""The levels of noise that a stage trains at, as data."""

from .strict import PositiveFloat, Strict


class NoiseConfig(Strict):
    """Training levels: log(sigma) ~ N(mean, std^2)."""

    sigma_data: PositiveFloat = 0.5
    mean: float = -1.2
    std: PositiveFloat = 1.2
