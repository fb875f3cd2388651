"""The kinds of stage, by the word in the YAML. A new one is a line here."""

from .base_config import BaseConfig
from .config import StageBase
from .super_res_config import SuperResConfig

KINDS: dict[str, type[StageBase]] = {"base": BaseConfig, "super_res": SuperResConfig}
