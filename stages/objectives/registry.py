"""The objectives, by the word in the YAML. A new one is a line here."""

from .config import ObjectiveConfig
from .denoising_config import DenoisingConfig

OBJECTIVES: dict[str, type[ObjectiveConfig]] = {"denoising": DenoisingConfig}
