"""The config of `Denoising`."""

from typing import ClassVar, Literal

from .config import ObjectiveConfig


class DenoisingConfig(ObjectiveConfig):
    """Denoising at the levels of the stage's `noise`; it has no keys of its own."""

    implementation: ClassVar[str] = "stages.objectives.denoising:Denoising"
    kind: Literal["denoising"] = "denoising"
