"""The networks, by the word in the YAML. A new one is a line here."""

from .config import NetworkConfig
from .unet_config import UNetConfig

NETWORKS: dict[str, type[NetworkConfig]] = {"unet": UNetConfig}
