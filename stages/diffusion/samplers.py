"""Samplers by their name in the settings, with their order, number of queries and options (query.py says what a sampler is).

They integrate the probability-flow ODE dx/dsigma = (x - x0_hat) / sigma, or an SDE with the same marginals, down from sigmas[0].
None knows what a network predicts: x0_hat is all that they are sent.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .first_order import consistency, ddim, ddpm, euler, sde
from .langevin import langevin, pc
from .multistep import dpmpp_2m, dpmpp_2m_sde, dpmpp_3m, dpmpp_3m_sde, unipc
from .option import Option, Options
from .query import Answer, Noise, Query, Sampler, drive, intervals, query
from .second_order import adaptive, heun

if TYPE_CHECKING:  # configs import this module without torch
    from torch import Tensor

__all__ = [
    "SAMPLERS", "Answer", "Noise", "Option", "Query", "Sampler", "SamplerKind", "all_options", "drive", "intervals", "num_queries",
    "query",
]  # fmt: skip


def one_a_step(num_steps: int, options: Options) -> int:
    """Queries of a sampler with one a step."""
    return num_steps


@dataclass(frozen=True, kw_only=True)
class SamplerKind:
    """A sampler's properties.

    order: of its error in the step size, in the path, or in the variance where it draws; 0 if it does not converge. queries: the
    most it makes over num_steps intervals with these options. adapts: whether they may be fewer. stops: whether x, where its
    levels end above 0, has the marginal of that level. draws: whether it may need noise after the start. options: its own settings
    by name; samplers that share a name share the option. source: the paper.
    """

    function: Callable[..., Sampler]
    order: int
    queries: Callable[[int, Options], int] = one_a_step
    adapts: bool = False
    stops: bool = True
    draws: bool = False
    options: Mapping[str, Option] = field(default_factory=dict)
    source: str = ""

    def __call__(self, x: "Tensor", levels: "Tensor", noise: Noise, options: Options) -> Sampler:
        """Start the coroutine over `levels` from x, with noise and option values if this sampler reads them."""
        accepted = {name: options[name] for name in self.options}
        return self.function(x, levels, **({"noise": noise} if self.draws else {}), **accepted)

    @property
    def defaults(self) -> dict[str, Any]:
        """The default values of its options."""
        return {name: option.default for name, option in self.options.items()}


CHURN = {
    "churn": Option(
        default=0.0, low=0.0, high=1000.0, help="noise added again, shared over the steps (S_churn); 0 is none"
    ),
    "churn_min": Option(default=0.0, low=0.0, high=1e6, help="lowest level that is churned (S_tmin)"),
    "churn_max": Option(default=1e6, low=0.0, high=1e6, help="highest level that is churned (S_tmax)"),
    "churn_noise": Option(default=1.0, low=0.0, high=2.0, help="std of the noise that is added (S_noise)"),
}
LAM = {"lam": Option(default=1.0, low=0.0, high=100.0, help="share of fresh noise: 0 the ODE, 1 the reverse SDE")}
ETA = {"eta": Option(default=0.0, low=0.0, high=1.0, help="share of fresh noise at each step: 0 is euler, 1 is ddpm")}
VARIANCE = {
    "variance": Option(
        default="small", choices=("small", "large", "learned"), help="of a step; learned needs a network that gives it"
    )
}
CORRECTOR = {
    "corrector_steps": Option(default=1, low=1, high=100, help="Langevin steps at each level"),
    "corrector_size": Option(
        default=0.1, low=0.001, high=1.0, help="size of a Langevin step; large ones blur the level"
    ),
}
TOLERANCE = {
    "tolerance": Option(
        default=0.05, low=1e-5, high=10.0, help="largest difference of Heun's step from Euler's, per pixel"
    )
}

SAMPLERS = {
    "euler": SamplerKind(function=euler, order=1, draws=True, options=CHURN, source="Karras et al. 2022"),
    "heun": SamplerKind(
        function=heun,
        order=2,
        queries=lambda num_steps, options: 2 * num_steps - 1,
        draws=True,
        options=CHURN,
        source="Karras et al. 2022, algorithm 2",
    ),
    "dpmpp_2m": SamplerKind(function=dpmpp_2m, order=2, source="Lu et al. 2022, algorithm 2"),
    "dpmpp_3m": SamplerKind(function=dpmpp_3m, order=3, source="Lu et al. 2022, appendix B"),
    "unipc": SamplerKind(function=unipc, order=3, source="Zhao et al. 2023"),
    "dpmpp_2m_sde": SamplerKind(
        function=dpmpp_2m_sde, order=2, draws=True, options=LAM, source="Lu et al. 2022, eq. 18"
    ),
    "dpmpp_3m_sde": SamplerKind(function=dpmpp_3m_sde, order=3, draws=True, options=LAM, source="Crowson 2022"),
    "ddim": SamplerKind(function=ddim, order=1, draws=True, options=ETA, source="Song et al. 2020a"),
    "ddpm": SamplerKind(
        function=ddpm, order=1, draws=True, options=VARIANCE, source="Ho et al. 2020; Nichol and Dhariwal 2021"
    ),
    "sde": SamplerKind(function=sde, order=1, draws=True, options=LAM, source="Zhang et al. 2023"),
    "langevin": SamplerKind(
        function=langevin,
        order=0,
        queries=lambda num_steps, options: (num_steps - 1) * options["corrector_steps"] + 1,
        draws=True,
        stops=False,
        options=CORRECTOR,
        source="Song and Ermon 2019, algorithm 1",
    ),
    "pc": SamplerKind(
        function=pc,
        order=0,
        queries=lambda num_steps, options: num_steps + (num_steps - 1) * options["corrector_steps"],
        draws=True,
        options=CORRECTOR,
        source="Song et al. 2021, algorithm 2",
    ),
    "consistency": SamplerKind(
        function=consistency, order=0, draws=True, stops=False, source="Song et al. 2023, algorithm 1"
    ),
    "adaptive": SamplerKind(
        function=adaptive,
        order=2,
        queries=lambda num_steps, options: 3 * num_steps - 2,
        adapts=True,
        options=TOLERANCE,
        source="Hairer et al. 1993, II.4",
    ),
}


def all_options() -> dict[str, Option]:
    """Options of all samplers, by name."""
    return {name: option for kind in SAMPLERS.values() for name, option in kind.options.items()}


def num_queries(name: str, num_steps: int, options: Options | None = None) -> int:
    """Largest number of queries (nfe) of a sampler over num_steps intervals. options: by default its own defaults."""
    kind = SAMPLERS[name]
    return kind.queries(num_steps, {**kind.defaults, **(options or {})})
