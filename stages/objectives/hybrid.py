"""The hybrid loss of a stage with learned variance (Nichol and Dhariwal 2021, eq. 16): denoising, and a little likelihood.

    weight |x0_hat - x0|^2 + nll * 1/2 (|x0_hat - x0|^2 / Var + log(P Var))

The second term is -log N(x0; x0_hat, Var) up to a constant, a mean over elements, 1/2 at the start. x0_hat is detached there, so it
trains the variance alone: its minimum is Var = E[|x0_hat - x0|^2 | x]. At a small `nll` the mean learns as without it.
"""

from torch import Tensor

from data.batch import Cond

from ..diffusion.corrupt import add_noise, expand_to
from ..diffusion.denoiser import weighted_error
from ..draws import Draws
from .denoising import Denoising, Drawn
from .hybrid_config import HybridConfig
from .objective import Denoises


class Hybrid(Denoising):
    """See the module."""

    def __init__(self, config: HybridConfig):
        super().__init__(config)
        self.nll = config.nll

    def loss(self, stage: Denoises, x0: Tensor, cond: Cond, levels: Drawn, draws: Draws) -> Tensor:
        """Loss (b,) of each image."""
        answer = stage.denoise(add_noise(x0, levels.sigma, draws.noise("eps", x0.shape)), levels.sigma, cond)
        assert answer.var is not None
        error = weighted_error(answer.x0_hat, x0, self.weight_of(stage, cond, levels))
        precision = expand_to(stage.parametrisation.weight(levels.sigma, cond.value("aug")), x0)
        square, ratio = (answer.x0_hat.detach() - x0).square() * precision, answer.var * precision
        nll = (square / ratio + ratio.log()).float().flatten(1).mean(1) / 2
        return error + self.nll * levels.factor * nll
