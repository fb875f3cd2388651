"""The spaces by their name in the YAML. Add a new one here."""

from .config import SpaceConfig
from .pixels_config import PixelsConfig

SPACES: dict[str, type[SpaceConfig]] = {"pixels": PixelsConfig}
