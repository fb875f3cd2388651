"""The kinds of stage by their name in the YAML. Add a new one here."""

from .base_config import BaseConfig
from .config import StageBase
from .super_res_config import SuperResConfig

KINDS: dict[str, type[StageBase]] = {"base": BaseConfig, "super_res": SuperResConfig}
