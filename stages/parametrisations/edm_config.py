"""The config of `EDM`."""

from typing import ClassVar, Literal

from .config import ParametrisationConfig


class EDMConfig(ParametrisationConfig):
    """EDM's preconditioning for the stage's `noise.sigma_data` and `low_res_sigma`; it has no keys of its own."""

    implementation: ClassVar[str] = "stages.diffusion.parametrisation:EDM"
    kind: Literal["edm"] = "edm"
