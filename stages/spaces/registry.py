"""The spaces, by the word in the YAML. A new one is a line here."""

from .config import SpaceConfig
from .pixels_config import PixelsConfig

SPACES: dict[str, type[SpaceConfig]] = {"pixels": PixelsConfig}
