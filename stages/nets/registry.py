"""The networks by their name in the YAML. Add a new one here."""

from .config import NetworkConfig
from .dit_config import DiTConfig
from .unet_config import UNetConfig

NETWORKS: dict[str, type[NetworkConfig]] = {"unet": UNetConfig, "dit": DiTConfig}
