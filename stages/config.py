"""The config of a stage: frozen, strict, complete. The cascade's YAML and a bundle's stage.json hold the same text.

Levels of sigma and aug_sigma are noise std in units of pictures in [-1, 1]; amounts of training are counted in images.
"""

from typing import TYPE_CHECKING, TypeAlias

from data.errors import TAGS

from .conditions.cond_config import CondConfig, TextConfig
from .kinds.base_config import BaseConfig
from .kinds.config import StageBase
from .kinds.registry import KINDS
from .kinds.super_res_config import AugConfig, SuperResConfig
from .nets.registry import NETWORKS
from .noise_config import NoiseConfig
from .objectives.law_config import LAWS
from .objectives.registry import OBJECTIVES
from .objectives.weight_config import WEIGHTS
from .parametrisations.registry import PARAMETRISATIONS
from .sample_config import SampleConfig
from .spaces.registry import SPACES
from .strict import one_of
from .train_config import TrainConfig

if TYPE_CHECKING:
    StageConfig: TypeAlias = StageBase
else:
    StageConfig = one_of(KINDS)

TAGS.update((*NETWORKS, *OBJECTIVES, *WEIGHTS, *LAWS, *PARAMETRISATIONS, *SPACES, *KINDS))

__all__ = [
    "KINDS", "AugConfig", "BaseConfig", "CondConfig", "NoiseConfig", "SampleConfig", "StageBase", "StageConfig", "SuperResConfig",
    "TextConfig", "TrainConfig",
]  # fmt: skip
