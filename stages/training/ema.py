"""Exponential moving averages of a stage's weights, several half-lives at once, counted in images.

timm's ModelEmaV3 does the averaging; the decay of an update is ours: 0.5 ** (batch / half_life), with the half-life capped at a
tenth of the images seen so that the average forgets the random start (as in EDM's ramp-up, Karras et al. 2022, appendix F.2).
"""

from pathlib import Path

from safetensors.torch import load_file, save_file
from timm.utils import ModelEmaV3
from torch import Tensor

from ..stage import Stage

RAMP_UP = 0.1


def decay_of(half_life: int, nimg: int, batch: int) -> float:
    """Weight of the old average when `batch` images, ending at nimg, have been seen."""
    return 0.5 ** (batch / max(min(half_life, RAMP_UP * nimg), 1e-8))


class Ema:
    """Averages of a module's state dict. Build it before the engine wraps or compiles the module."""

    def __init__(self, module: Stage, half_lives: tuple[int, ...]):
        self.averages = {half_life: ModelEmaV3(module) for half_life in half_lives}

    def update(self, module: Stage, *, nimg: int, batch: int) -> None:
        """Takes in the weights after an update that ended at nimg."""
        for half_life, average in self.averages.items():
            average.decay = decay_of(half_life, nimg, batch)
            average.update(module)

    def module(self, half_life: int) -> Stage:
        return self.averages[half_life].module

    def weights(self, half_life: int) -> dict[str, Tensor]:
        return {name: tensor.detach() for name, tensor in self.module(half_life).state_dict().items()}

    def save(self, folder: Path) -> None:
        """One safetensors file for each half-life."""
        for half_life in self.averages:
            weights = {name: tensor.contiguous() for name, tensor in self.weights(half_life).items()}
            save_file(weights, folder / f"ema-{half_life}.safetensors")

    def load(self, folder: Path) -> None:
        for half_life, average in self.averages.items():
            average.module.load_state_dict(load_file(folder / f"ema-{half_life}.safetensors"))
