"""Samplers against exact probability-flow paths, against diffusers' schedulers, and on finite data.

Order of convergence is the sharp test: a wrong coefficient still paints plausible pictures, but gives another slope.
"""

import ast
import inspect
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from stages.config import SampleConfig
from stages.diffusion.noise import power_grid
from stages.diffusion.samplers import SAMPLERS, Answer, Option, Sampler, SamplerKind, all_options, num_queries
from tests.worlds import Counted, FiniteData, GaussianData

every_sampler = pytest.mark.parametrize("name", list(SAMPLERS))


def values_of(kind: SamplerKind) -> list[dict[str, Any]]:
    """Its options at their defaults, then each at its ends; 100 steps are 3 here."""
    ends = [{name: 3 if end == 100 else end} for name, option in kind.options.items() for end in option.range]
    told = [{**kind.defaults, **end} for end in ({}, *ends)]
    return [values for count, values in enumerate(told) if values not in told[:count]]


with_every_option = pytest.mark.parametrize(
    ("name", "options"), [(name, options) for name, kind in SAMPLERS.items() for options in values_of(kind)]
)


def started(name: str, x: Tensor, sigmas: Tensor, options: dict[str, float] | None = None) -> Sampler:
    """options: by default those with which it draws nothing on its way."""
    generator = torch.Generator().manual_seed(5)

    def noise(purpose: str, shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=x.dtype)

    return SAMPLERS[name](x, sigmas, noise, quiet(name) if options is None else options)


def quiet(name: str) -> dict[str, float]:
    """Its options where it draws nothing on its way, if it can."""
    kind = SAMPLERS[name]
    return {name: lowest(option) if kind.draws else option.default for name, option in kind.options.items()}


def lowest(option: Option) -> float | str:
    return option.range[0]


def drive(sampler: Sampler, denoise) -> Tensor:
    """As the module's, with a variance in each answer."""
    try:
        query = next(sampler)
        while True:
            x0_hat = denoise(query.x, query.sigma)
            query = sampler.send(Answer(x0_hat, torch.full_like(x0_hat, 0.01)))
    except StopIteration as stop:
        return stop.value


def drawn(name: str, options: dict[str, float]) -> list[str]:
    """The purposes for which a sampler draws on a way of five steps."""
    purposes: list[str] = []

    def noise(purpose: str, shape: tuple[int, ...]) -> Tensor:
        purposes.append(purpose)
        return torch.zeros(shape)

    x, sigmas = torch.ones(1, 1, 2, 2), power_grid(5, sigma_min=0.1, sigma_max=5)
    drive(SAMPLERS[name](x, sigmas, noise, options), lambda x, sigma: x / (1 + sigma.reshape(-1, 1, 1, 1) ** 2))
    return purposes


PATHS = [name for name in SAMPLERS if not drawn(name, quiet(name)) and not SAMPLERS[name].adapts]
follows_the_path = pytest.mark.parametrize("name", PATHS)


def state_at_sigma_min(name: str, denoise, x: Tensor, sigmas: Tensor) -> Tensor:
    """What the sampler has made of x when it arrives at sigmas[-2]: the x of its last query."""
    sampler = started(name, x, sigmas)
    wanted = next(sampler)
    try:
        while True:
            last = wanted.x
            wanted = sampler.send(Answer(denoise(wanted.x, wanted.sigma)))
    except StopIteration:
        return last


def slope(name: str, denoise, x: Tensor, exact: Tensor, grids: dict[int, Tensor]) -> float:
    """Least-squares slope of -log(error at sigma_min) over log(number of intervals above it); grids by that number."""
    errors = [(state_at_sigma_min(name, denoise, x, sigmas) - exact).abs().max() for sigmas in grids.values()]
    log_num, log_error = torch.tensor(list(grids)).double().log(), torch.stack(errors).log()
    return (-torch.cov(torch.stack([log_num, log_error]))[0, 1] / log_num.var()).item()


def power_grids(*nums: int, low: float, high: float) -> dict[int, Tensor]:
    return {num: power_grid(num + 1, sigma_min=low, sigma_max=high) for num in nums}


def uneven_grids(*nums: int, low: float, high: float) -> dict[int, Tensor]:
    """Steps of log(sigma) that are by turns one and three parts wide, which no power grid is."""
    grids = {}
    for num in nums:
        steps = torch.tensor([1.0, 3.0]).double().repeat(num // 2)
        shares = torch.cat([torch.zeros(1).double(), steps.cumsum(0) / steps.sum()])
        sigmas = (math.log(high) + shares * (math.log(low) - math.log(high))).exp()
        grids[num] = torch.cat([sigmas, torch.zeros(1).double()])
    return grids


def gaussian() -> GaussianData:
    std = torch.tensor([0.1, 0.5, 0.9, 2.0], dtype=torch.float64).reshape(1, 2, 2)
    return GaussianData(mean=torch.full((1, 2, 2), 0.3, dtype=torch.float64), std=std)


class TwoPoints:
    """x0 = -1 or +1, one pixel. The flow keeps the order of states, hence P(x' < x; sigma), which fixes its path."""

    data = FiniteData(images=torch.tensor([-1.0, 1.0]).double().reshape(2, 1, 1, 1))

    @staticmethod
    def below(x: Tensor, sigma: float) -> Tensor:
        return (torch.special.ndtr((x - 1) / sigma) + torch.special.ndtr((x + 1) / sigma)) / 2

    def path(self, x: Tensor, sigma_from: float, sigma_to: float) -> Tensor:
        """By bisection of P(x' < y; sigma_to) = P(x' < x; sigma_from)."""
        wanted = self.below(x, sigma_from)
        low, high = torch.full_like(x, -20), torch.full_like(x, 20)
        for _ in range(80):
            middle = (low + high) / 2
            is_low = self.below(middle, sigma_to) < wanted
            low, high = torch.where(is_low, middle, low), torch.where(is_low, high, middle)
        return (low + high) / 2


def eased(name: str, grids: dict[int, Tensor]) -> dict[int, Tensor]:
    """With two short steps more at the start for samplers whose first two steps are of a lower order; in use these are harmless,
    since x0_hat hardly changes there."""
    if not name.startswith("dpmpp_3m"):
        return grids
    return {
        num: torch.cat([sigmas[:1], sigmas[0] * torch.tensor([-1.0, -2.0]).double().div(num**2).exp(), sigmas[1:]])
        for num, sigmas in grids.items()
    }


@follows_the_path
def test_order_of_convergence_on_gaussian_data(name, generator):
    world = gaussian()
    x = 10 * torch.randn(3, 1, 2, 2, generator=generator, dtype=torch.float64)
    exact = world.path(x, 10.0, 0.05)
    order = SAMPLERS[name].order
    nums = (40, 80, 160) if order == 2 else (160, 320, 640)
    for grids in (power_grids, uneven_grids):
        found = slope(name, world.denoise, x, exact, eased(name, grids(*nums, low=0.05, high=10)))
        assert found == pytest.approx(order, abs=0.1), grids


@follows_the_path
def test_order_of_convergence_on_two_points(name):
    """A path that bends: the denoiser is tanh(x / sigma^2)."""
    world = TwoPoints()
    x = torch.tensor([-4.0, -0.9, 0.4, 2.5]).double().reshape(4, 1, 1, 1)
    exact = world.path(x, 4.0, 0.3)
    found = slope(name, world.data.denoise, x, exact, eased(name, power_grids(80, 160, 320, low=0.3, high=4)))
    assert found == pytest.approx(SAMPLERS[name].order, abs=0.15)


@follows_the_path
def test_arrives_where_the_exact_path_ends(name, generator):
    num_steps, error = (400, 0.05) if SAMPLERS[name].order == 1 else (480, 0.001)
    world = gaussian()
    x = 80 * torch.randn(8, 1, 2, 2, generator=generator, dtype=torch.float64)
    found = drive(started(name, x, power_grid(num_steps, sigma_min=0.002, sigma_max=80)), world.denoise)
    assert_close(found, world.path(x, 80.0, 0.0), rtol=0, atol=error)


@with_every_option
@pytest.mark.parametrize("low_res", [False, True])
def test_ends_on_a_data_point(name, options, low_res, generator):
    images = 2 * torch.rand(6, 3, 8, 8, generator=generator) - 1
    world = FiniteData(images=images, low_size=4)
    which = torch.arange(6)
    x = 80 * torch.randn(6, 3, 8, 8, generator=generator)
    given = () if not low_res else (world.low_res[which], torch.full((6,), 0.05))
    sampler, answer = started(name, x, power_grid(12, sigma_min=0.005, sigma_max=80), options), None
    try:
        while True:
            query = next(sampler) if answer is None else sampler.send(answer)
            rows = which if query.rows is None else query.rows
            x0_hat = world.denoise(query.x, query.sigma, None, *(each[rows] for each in given))
            answer = Answer(x0_hat, torch.full_like(x0_hat, 0.01))
    except StopIteration as stop:
        found = stop.value
    nearest, error = world.nearest(found)
    assert error.max() < 1e-5
    if low_res and name != "langevin":  # five levels' worth of steps in all: it has not found its picture yet
        assert torch.equal(nearest, which)


@with_every_option
@pytest.mark.parametrize("num_steps", [1, 2, 5, 16])
def test_num_queries_is_how_often_it_asks(name, options, num_steps, generator):
    """Never at 0, nor above the start, but for churn."""
    world = gaussian()
    sigmas = power_grid(num_steps, sigma_min=0.01, sigma_max=10)
    counted = Counted(world.denoise)
    drive(started(name, torch.randn(1, 1, 2, 2, generator=generator).double(), sigmas, options), counted)
    most = num_queries(name, num_steps, options)
    assert len(counted.sigmas) <= most if SAMPLERS[name].adapts else len(counted.sigmas) == most
    levels = set(sigmas[:-1].tolist())
    if options.get("churn"):
        assert 0 < min(counted.sigmas) <= max(counted.sigmas) < 10 * 2**0.5 + 1e-6
    elif not SAMPLERS[name].adapts:
        assert set(counted.sigmas) <= levels
        assert num_steps == 1 or levels - set(counted.sigmas) <= {10.0} or SAMPLERS[name].order == 0


@with_every_option
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_queries_have_one_sigma_an_image_in_the_dtype_of_x(name, options, dtype):
    sampler = started(name, torch.ones(3, 1, 2, 2, dtype=dtype), power_grid(3, sigma_min=0.01, sigma_max=10), options)
    query = next(sampler)
    assert (query.sigma.shape, query.sigma.dtype, query.x.dtype) == ((3,), dtype, dtype)
    assert sampler.send(Answer(torch.zeros_like(query.x), torch.ones_like(query.x))).x.dtype == dtype


@with_every_option
def test_one_step_is_the_denoiser_itself(name, options, generator):
    world = gaussian()
    x = 5 * torch.randn(2, 1, 2, 2, generator=generator, dtype=torch.float64)
    if not options.get("churn"):
        found = drive(started(name, x, torch.tensor([5.0, 0.0]), options), world.denoise)
        assert_close(found, world.denoise(x, torch.full((2,), 5.0)), rtol=1e-14, atol=1e-14)


@every_sampler
@pytest.mark.parametrize(
    "sigmas",
    [
        [],
        [0.0],
        [1.0],
        [2.0, 1.0, -1.0],
        [1.0, 1.0, 0.0],
        [1.0, 2.0, 0.0],
        [math.nan, 0.0],
        [2.0, math.nan, 0.0],
        [-1.0, 0.0],
        [math.inf, 0.0],
    ],
)
def test_bad_sigmas_are_refused(name, sigmas):
    with pytest.raises(ValueError, match="fall strictly and end at 0 or above"):
        next(started(name, torch.zeros(1, 1, 2, 2), torch.tensor(sigmas)))


@every_sampler
def test_it_knows_nothing_of_what_a_network_predicts(name):
    """Its module has imports of the protocol of samplers and of churn, and none of targets, parametrisations or networks."""
    tree = ast.parse(Path(inspect.getfile(SAMPLERS[name].function)).read_text())
    found = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level}
    assert found <= {"query", "churn"}


@every_sampler
def test_an_option_means_the_same_to_all_and_is_no_setting_of_others(name):
    own = SAMPLERS[name].options
    assert all(all_options()[option] == own[option] for option in own)
    assert not own.keys() & SampleConfig.__annotations__.keys()
    for option in own.values():
        assert option.help
        if option.choices:
            assert option.default in option.choices
        else:
            assert option.low <= option.default <= option.high


@every_sampler
def test_a_random_start_is_no_noise_on_the_way(name):
    """Its purposes are its own, and at each step another; only samplers that say so draw."""
    purposes = drawn(name, SAMPLERS[name].defaults | {"churn": 10.0, "eta": 1.0})
    assert len(set(purposes)) == len(purposes)
    assert not {"start", "aug"} & set(purposes)
    assert bool(purposes) == SAMPLERS[name].draws


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")  # diffusers and numpy
class TestAgainstDiffusers:
    """The same grid, start and denoiser in another project's schedulers, which compute in float32: equal to 1e-4."""

    num_steps = 12

    @pytest.fixture
    def x(self, generator):
        return 20 * torch.randn(4, 3, 4, 4, generator=generator)

    @pytest.fixture
    def denoise(self):
        """Ideal, of wide blobs around five pictures: a smooth world, whose end still shows the whole path."""
        world = FiniteData(images=2 * torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(3)) - 1)

        def mixture(x: Tensor, sigma: Tensor) -> Tensor:
            wide = (sigma.double().square() + 0.25).sqrt()
            mean = world.denoise(x.double(), wide)
            return mean + (0.25 / wide.square())[:, None, None, None] * (x - mean)

        return mixture

    def euler_or_heun(self, kind):
        scheduler = kind(beta_start=0.0001, beta_end=0.02, prediction_type="epsilon", use_karras_sigmas=True)
        scheduler.set_timesteps(self.num_steps)
        return scheduler

    def walk(self, scheduler, x, denoise):
        """diffusers' loop, with eps for an answer."""
        for time in scheduler.timesteps:
            scheduler.scale_model_input(x, time)
            sigma = scheduler.sigmas[scheduler.step_index].double()
            x0_hat = denoise(x.double(), sigma.expand(len(x)))
            x = scheduler.step(((x - x0_hat) / sigma).float(), time, x).prev_sample
        return x

    @pytest.mark.parametrize(("name", "kind"), [("euler", "EulerDiscreteScheduler"), ("heun", "HeunDiscreteScheduler")])
    def test_euler_and_heun(self, name, kind, x, denoise):
        import diffusers

        scheduler = self.euler_or_heun(getattr(diffusers, kind))
        sigmas = torch.unique(scheduler.sigmas).flip(0).double()
        assert len(sigmas) == self.num_steps + 1
        ours = drive(started(name, x.double(), sigmas), denoise)
        assert_close(self.walk(scheduler, x, denoise), ours.float(), rtol=1e-4, atol=1e-4)

    def test_grid_and_dpmpp_2m(self, x, denoise):
        """EDMDPMSolverMultistepScheduler works in sigma on EDM's grid; it wants F, so x0_hat is taken apart first."""
        from diffusers import EDMDPMSolverMultistepScheduler

        scheduler = EDMDPMSolverMultistepScheduler(
            sigma_min=0.02,
            sigma_max=20,
            sigma_data=0.5,
            rho=7,
            solver_order=2,
            solver_type="midpoint",
            final_sigmas_type="zero",
        )
        scheduler.set_timesteps(self.num_steps)
        sigmas = power_grid(self.num_steps, sigma_min=0.02, sigma_max=20)
        assert_close(scheduler.sigmas.double(), sigmas, rtol=1e-5, atol=0)

        ours = drive(started("dpmpp_2m", x.double(), sigmas), denoise)
        for k, time in enumerate(scheduler.timesteps):
            sigma = sigmas[k]
            total = sigma**2 + 0.25
            x0_hat = denoise(x.double(), sigma.expand(len(x)))
            F = (x0_hat - 0.25 / total * x) / (0.5 * sigma / total.sqrt())
            x = scheduler.step(F.float(), time, x).prev_sample
        assert_close(x, ours.float(), rtol=1e-4, atol=1e-4)

    def test_dpmpp_2m_in_variance_preserving_coordinates(self, x, denoise):
        """DPMSolverMultistepScheduler holds x * sqrt(alpha_bar): the same algorithm in another view."""
        from diffusers import DPMSolverMultistepScheduler

        scheduler = DPMSolverMultistepScheduler(
            algorithm_type="dpmsolver++", solver_order=2, solver_type="midpoint", prediction_type="sample",
            use_karras_sigmas=True, final_sigmas_type="zero",
        )  # fmt: skip
        scheduler.set_timesteps(self.num_steps)
        sigmas = scheduler.sigmas.double()
        ours = drive(started("dpmpp_2m", x.double(), sigmas), denoise)
        vp = x / (1 + sigmas[0] ** 2).sqrt()
        for k, time in enumerate(scheduler.timesteps):
            x0_hat = denoise(vp * (1 + sigmas[k] ** 2).sqrt(), sigmas[k].expand(len(x)))
            vp = scheduler.step(x0_hat, time, vp).prev_sample
        assert_close(vp, ours, rtol=1e-4, atol=1e-4, check_dtype=False)
