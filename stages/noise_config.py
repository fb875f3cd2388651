"""The config of the noise levels in training."""

from .strict import PositiveFloat, Strict


class NoiseConfig(Strict):
    """Training levels: log(sigma) ~ N(mean, std^2). sigma_data: std of x0."""

    sigma_data: PositiveFloat = 0.5
    mean: float = -1.2
    std: PositiveFloat = 1.2
