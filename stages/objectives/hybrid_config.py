"""The config of `Hybrid`."""

from typing import ClassVar, Literal

from ..strict import NonNegative
from .denoising_config import WeightedConfig


class HybridConfig(WeightedConfig):
    """Denoising and, with weight `nll`, the likelihood of the predicted variance."""

    implementation: ClassVar[str] = "stages.objectives.hybrid:Hybrid"
    trains_variance: ClassVar[bool] = True
    kind: Literal["hybrid"] = "hybrid"
    nll: NonNegative = 0.001
