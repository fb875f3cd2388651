"""The config of `Prediction`."""

from typing import Any, ClassVar, Literal

from .config import ParametrisationConfig


class PredictionConfig(ParametrisationConfig):
    """The network answers one of the classical targets, by the word in `kind`; low_res is an input and nothing more."""

    implementation: ClassVar[str] = "stages.diffusion.prediction:Prediction"
    kind: Literal["eps", "x0", "v", "flow"]

    def made(self, *, sigma_data: float, low_res_sigma: float | None) -> Any:
        """A `Prediction` of this target."""
        return self.loaded()(sigma_data=sigma_data, low_res_sigma=low_res_sigma, target=self.kind)
