"""Exponential moving averages of a stage's weights, several half-lives at once, counted in images.

timm's ModelEmaV3 averages; the decay of an update is 0.5 ** (batch / half_life), with the half-life capped at a tenth of the images
seen so that the average forgets the random start (as in EDM's ramp-up, Karras et al. 2022, appendix F.2).
"""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..stage import Stage

RAMP_UP = 0.1

Averages = dict[int, dict[str, Tensor]]
"""Weights by half-life and name."""


def decay_of(half_life: int, nimg: int, batch: int) -> float:
    """Weight of the old average after an update of `batch` images that ended at nimg."""
    return 0.5 ** (batch / max(min(half_life, RAMP_UP * nimg), 1e-8))


class Ema:
    """Averages of a module's state dict. Build it before the engine wraps, partitions or compiles the module."""

    def __init__(self, module: Stage, half_lives: tuple[int, ...]):
        from timm.utils import ModelEmaV3

        self.averages = {half_life: ModelEmaV3(module) for half_life in half_lives}
        self.begun = dict.fromkeys(half_lives, 0)

    def update(self, module: Stage, *, nimg: int, batch: int) -> None:
        """Average in the weights after an update that ended at nimg."""
        for half_life, average in self.averages.items():
            average.decay = decay_of(half_life, nimg, batch)
            average.update(module)

    def module(self, half_life: int) -> Stage:
        """The stage with the averaged weights."""
        return self.averages[half_life].module

    def copies(self) -> Averages:
        """Copies of the averages on the CPU, unaffected by later updates."""
        return {
            half_life: {name: tensor.detach().to("cpu", copy=True) for name, tensor in stage.state_dict().items()}
            for half_life, stage in ((key, self.module(key)) for key in self.averages)
        }

    def load(self, folder: Path, weights: dict[str, Tensor], nimg: int) -> list[int]:
        """Load a checkpoint's averages. A missing one starts from the weights at `nimg`; returns the half-lives of those."""
        for half_life, average in self.averages.items():
            path = ema_file(folder, half_life)
            average.module.load_state_dict(load_file(path) if path.exists() else weights)
            self.begun[half_life] = begun_at(path) if path.exists() else nimg
        return [half_life for half_life in self.averages if not ema_file(folder, half_life).exists()]


def begun_at(path: Path) -> int:
    """Images seen when an average on disk was started from the weights; 0 is the random start. Raises ValueError."""
    try:
        with safe_open(path, "pt") as file:
            return int((file.metadata() or {}).get("begun", 0))
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{path}: not a whole safetensors file ({error}); restore it, or remove it") from None


def ema_file(folder: Path, half_life: int) -> Path:
    """File of the average with this half-life."""
    return folder / f"ema-{half_life}.safetensors"


def save_averages(averages: Averages, folder: Path, begun: Mapping[int, int] = {}) -> None:
    """Write one safetensors file a half-life. begun: images seen at their start, for those not started at random."""
    for half_life, weights in averages.items():
        metadata = {"begun": str(begun[half_life])} if begun.get(half_life) else None
        save_file(
            {name: tensor.contiguous() for name, tensor in weights.items()}, ema_file(folder, half_life), metadata
        )
