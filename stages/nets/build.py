"""Config to network: the registry of networks, by the word in the YAML."""

from typing import Any

from ..config import NetConfig
from .ports import Ports
from .unet import UNet

NETWORKS = {"unet": UNet}


def build_network(config: NetConfig, ports: Ports) -> Any:
    """A `Network` with random weights."""
    return NETWORKS[config.kind](config, ports)
