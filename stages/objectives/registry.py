"""The objectives by their name in the YAML. Add a new one here."""

from .config import ObjectiveConfig
from .denoising_config import DenoisingConfig
from .hybrid_config import HybridConfig

OBJECTIVES: dict[str, type[ObjectiveConfig]] = {"denoising": DenoisingConfig, "hybrid": HybridConfig}
