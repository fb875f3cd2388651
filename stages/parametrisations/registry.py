"""The parametrisations by their name in the YAML. Add a new one here."""

from .config import ParametrisationConfig
from .edm_config import EDMConfig
from .prediction_config import PredictionConfig
from .spectral_config import SpectralConfig

PARAMETRISATIONS: dict[str, type[ParametrisationConfig]] = {
    "edm": EDMConfig,
    "spectral": SpectralConfig,
    "eps": PredictionConfig,
    "x0": PredictionConfig,
    "v": PredictionConfig,
    "flow": PredictionConfig,
}
