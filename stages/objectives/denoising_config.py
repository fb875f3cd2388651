"""The config of `Denoising`."""

from typing import ClassVar, Literal

from .config import ObjectiveConfig


class DenoisingConfig(ObjectiveConfig):
    """At the levels of the stage's `noise`."""

    implementation: ClassVar[str] = "stages.objectives.denoising:Denoising"
    kind: Literal["denoising"] = "denoising"
