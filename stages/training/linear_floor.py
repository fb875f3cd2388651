"""The linear floor: the loss of a linear filter, with no network, on the pictures, levels and weight of a run's validation.

The filter is the Wiener filter of octave bands and opponent colours (stages/diffusion/spectral.py) with the spectrum of these very
pictures, which is as good as a filter with so few numbers gets. A network that is worse after its warm-up has a fault: a learning
rate that is too low or too high, data that are not what the config says, too few images.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from data.batch import Batch, Cond

from ..config import StageConfig
from ..diffusion.parametrisation import Parametrisation
from ..diffusion.samplers import Answer
from ..draws import Draws
from ..objectives.denoising import Denoising
from ..objectives.objective import Objective
from ..spectrum import num_bands, spectrum
from ..stage import Stage

PIXELS = 1 << 20  # of pictures that are filtered, a million: 256 of 64 px, 16 of 256 px


@dataclass(kw_only=True)
class Filter:
    """What an objective needs from a stage, without a network. parametrisation: weighs the errors; wiener: makes x0_hat."""

    config: StageConfig
    parametrisation: Parametrisation
    wiener: Parametrisation

    def denoise(self, x: Tensor, sigma: Tensor, cond: Cond) -> Answer:
        """The filter's x0_hat."""
        return self.wiener.estimate(torch.zeros_like(x), x, sigma, cond.value("low_res"), cond.value("aug"))


@torch.no_grad()
def linear_floor(stage: Stage, batches: Sequence[Batch], seed: int, objective: Objective) -> float | None:
    """Mean loss of the filter on the first pictures of `batches`; None under an objective that is no denoising.

    stage: in evaluation mode; its network is not asked.
    """
    if type(objective) is not Denoising:
        return None
    config, device = stage.config, next(stage.parameters()).device
    few = max(1, PIXELS // config.resolution**2)
    used = [batch[:few] for batch in batches[: -(-few // len(batches[0]))]]
    side = min(config.size[-2:])
    found = spectrum(config, [batch.image for batch in used], bands=num_bands(side))
    wiener = found.build(sigma_data=1.0, low_res_sigma=None)
    linear = Filter(config=config, parametrisation=stage.parametrisation, wiener=wiener)
    losses = []
    for batch in used:
        draws = Draws(batch.to(device), seed)
        x0, cond = stage.prepared(draws.batch, draws, None)
        levels = objective.levels(linear, draws.uniforms["sigma"]).to(x0)
        losses.append(objective.loss(linear, x0, cond, levels, draws))
    return torch.cat(losses).mean().item()
