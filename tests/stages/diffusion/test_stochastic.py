"""Samplers that draw, in closed form: on Gaussian data they are affine in the start and in each draw, so nothing is sampled.

A sampler is run on rows: one with no noise, which gives the mean, and one for each source of noise with that source at 1, which
gives its weight. The variance is the sum of the squared weights.
"""

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from stages.diffusion.noise import BETAS, beta_table, loguniform_grid, power_grid
from stages.diffusion.samplers import SAMPLERS, Answer, Sampler
from tests.worlds import GaussianData

STD = torch.tensor([0.1, 0.5, 0.9, 2.0], dtype=torch.float64).reshape(1, 1, 2, 2)
WORLD = GaussianData(mean=torch.full((1, 2, 2), 0.3, dtype=torch.float64), std=STD[0])


def run(name: str, start: Tensor, sigmas: Tensor, noise, **options) -> Tensor:
    kind = SAMPLERS[name]
    sampler: Sampler = kind(start, sigmas, noise, {**kind.defaults, **options})
    try:
        query = next(sampler)
        while True:
            var = 1 / (STD**-2 + query.sigma.reshape(-1, 1, 1, 1) ** -2)
            query = sampler.send(Answer(WORLD.denoise(query.x, query.sigma), var.expand_as(query.x)))
    except StopIteration as stop:
        return stop.value


def marginal(name: str, sigmas: Tensor, **options) -> tuple[Tensor, Tensor]:
    """Mean and variance of what a sampler ends with, if it starts from the data's exact marginal at sigmas[0]."""
    purposes: list[str] = []

    def listed(purpose: str, shape: tuple[int, ...]) -> Tensor:
        purposes.append(purpose)
        return torch.zeros(shape, dtype=torch.float64)

    mean = WORLD.mean[None]
    run(name, mean, sigmas, listed, **options)
    rows = {purpose: row for row, purpose in enumerate(dict.fromkeys(purposes), 2)}

    def one(purpose: str, shape: tuple[int, ...]) -> Tensor:
        draws = torch.zeros(shape, dtype=torch.float64)
        draws[rows[purpose]] = 1
        return draws

    start = mean.repeat(len(rows) + 2, 1, 1, 1)
    start[1] += (STD[0] ** 2 + sigmas[0] ** 2).sqrt()
    found = run(name, start, sigmas, one, **options)
    return found[:1], (found[1:] - found[:1]).square().sum(0, keepdim=True)


def truncated(num: int, low: float = 0.1, high: float = 10.0) -> Tensor:
    """Levels that stop at `low`."""
    return power_grid(num + 1, sigma_min=low, sigma_max=high)[:-1]


def error(name: str, num: int, **options) -> Tensor:
    """Largest relative error of the variance at level 0.1."""
    mean, variance = marginal(name, truncated(num), **options)
    assert_close(mean, WORLD.mean[None], rtol=0, atol=1e-12)
    return (variance / (STD**2 + 0.01) - 1).abs().max()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ddpm", {"variance": "small"}),
        ("ddpm", {"variance": "large"}),
        ("ddim", {"eta": 0.5}),
        ("ddim", {"eta": 1.0}),
        ("sde", {"lam": 0.5}),
        ("sde", {"lam": 1.0}),
        ("sde", {"lam": 3.0}),
    ],
)
def test_the_variance_converges_with_first_order(name, options):
    errors = torch.stack([error(name, num, **options) for num in (80, 160, 320)])
    slopes = (errors[:-1] / errors[1:]).log2()
    assert_close(slopes, torch.ones(2).double(), rtol=0, atol=0.12)


@pytest.mark.parametrize(("name", "order"), [("dpmpp_2m_sde", 2), ("dpmpp_3m_sde", 2)])
def test_the_variance_of_multistep_sdes(name, order):
    """Second order at least: where noise comes in, a third answer no longer helps the variance to third order."""
    errors = torch.stack([error(name, num) for num in (80, 160, 320)])
    assert ((errors[:-1] / errors[1:]).log2() > order - 0.15).all()


@pytest.mark.parametrize("num", [1, 2, 5, 16])
def test_the_learned_variance_is_exact_at_any_number_of_steps(num):
    """With Var(x0 | x) of the world each step is the exact reverse transition, so the marginal is, too."""
    assert error("ddpm", num, variance="learned") < 1e-12


@pytest.mark.parametrize("num", [1, 2, 5])
def test_small_and_large_are_exact_on_a_point_and_on_unit_variance(num):
    """small is the transition if x0 is known; large if x0 is N(0, 1), where the posterior variance makes up the difference."""
    for std, variance in ((1e-9, "small"), (1.0, "large")):
        for sigma, after in torch.combinations(torch.tensor([0.2, 1.0, 7.0]).flip(0)).tolist():
            share = 1 - (after / sigma) ** 2
            exact = after**2 * share + share**2 / (std**-2 + sigma**-2)
            from stages.diffusion.first_order import ddpm_std

            assert ddpm_std(Answer(torch.zeros(1)), sigma, after, variance) ** 2 == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize("name", list(BETAS))
def test_the_mean_of_a_step_is_the_papers_with_the_cumulative_alpha(name, generator):
    """(X - beta / sqrt(1 - alpha_bar) eps_hat) / sqrt(1 - beta) (Ho et al. 2020, algorithm 2) for neighbours of the schedule; with
    1 - beta for alpha_bar under the inner root, as some texts have it, it is another."""
    betas = BETAS[name]()
    alpha_bars, levels = (1 - betas).cumprod(0), beta_table(betas)
    for t in (1, 10, 400, 900):
        x = levels[t] * torch.randn(1, 1, 2, 2, generator=generator, dtype=torch.float64)
        sigmas, kept = levels[[t, t - 1]], {"variance": "small"}
        ours = run("ddpm", x, sigmas, lambda purpose, shape: torch.zeros(shape), **kept) * alpha_bars[t - 1].sqrt()
        X, eps_hat = x * alpha_bars[t].sqrt(), (x - WORLD.denoise(x, levels[t : t + 1])) / levels[t]
        right, slip = (
            (X - betas[t] / (1 - share).sqrt() * eps_hat) / (1 - betas[t]).sqrt()
            for share in (alpha_bars[t], 1 - betas[t])
        )
        assert_close(ours, right, rtol=1e-9, atol=1e-12)
        assert (right - slip).abs().max() > 1e-4


@pytest.mark.parametrize("churn", [1.0, 5.0])
@pytest.mark.parametrize("name", ["euler", "heun"])
def test_churn_keeps_the_marginal(name, churn):
    """Noise up and the ODE down: the more steps, the closer, and heun is far better."""
    few, many = error(name, 40, churn=churn), error(name, 160, churn=churn)
    assert many < few / 3
    assert many < (0.04 if name == "euler" else 1e-3)


@pytest.mark.parametrize("size", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("sigma", [0.05, 0.5, 5.0])
def test_langevin_s_stationary_variance(size, sigma):
    """(v + sigma^2) / (1 - size k / 2), k = sigma^2 / (v + sigma^2); from any start, the rest falls with (1 - size k)^2 a step."""
    sigmas, num = torch.tensor([1.25 * sigma, sigma], dtype=torch.float64), 40
    _, variance = marginal("langevin", sigmas, corrector_steps=num, corrector_size=size)
    total = STD**2 + sigma**2
    k = sigma**2 / total
    stationary = total / (1 - size * k / 2)
    begun = STD**2 + (1.25 * sigma) ** 2
    assert_close(variance, stationary + (begun - stationary) * (1 - size * k) ** (2 * num), rtol=1e-10, atol=0)


def test_a_corrector_improves_the_variance_of_its_predictor():
    """Where sigma is at least the data's std and the size small."""
    sigmas = loguniform_grid(12, sigma_min=2.0, sigma_max=40.0)[:-1]
    wanted = STD**2 + sigmas[-1] ** 2
    alone = (marginal("ddpm", sigmas, variance="small")[1] / wanted - 1).abs().max()
    pairs = [marginal("pc", sigmas, corrector_steps=num, corrector_size=0.02) for num in (1, 10, 60)]
    errors = [(variance / wanted - 1).abs().max() for _, variance in pairs]
    assert alone > errors[0] > errors[1] > errors[2]
    for mean, _ in pairs:
        assert_close(mean, WORLD.mean[None], rtol=0, atol=1e-12)


def test_a_step_of_the_family_does_not_depend_on_how_it_is_divided_if_x0_is_one_point():
    """It solves the SDE exactly where x0_hat is constant: the weights of one step are those of many."""
    world = GaussianData(mean=torch.zeros(1, 2, 2).double(), std=torch.full((1, 2, 2), 1e-12).double())
    for lam in (0.0, 0.7, 1.0):
        kept = []
        for num in (1, 9):
            sampler = SAMPLERS["sde"](
                torch.ones(1, 1, 2, 2).double(), truncated(num), lambda purpose, shape: torch.zeros(shape), {"lam": lam}
            )
            try:
                query = next(sampler)
                while True:
                    query = sampler.send(Answer(world.denoise(query.x, query.sigma)))
            except StopIteration as stop:
                kept.append(stop.value)
        assert_close(kept[0], kept[1], rtol=1e-9, atol=0)
        assert_close(kept[0], torch.full_like(kept[0], 0.01 ** (1 + lam)), rtol=1e-9, atol=0)


def test_consistency_forgets_all_but_the_last_answer():
    """The variance of x0_hat at sigma_min's level, whatever came before: D's slope squared times the marginal's."""
    sigmas = torch.tensor([10.0, 1.0, 0.0]).double()
    _, variance = marginal("consistency", sigmas)
    first, second = (STD**2 / (STD**2 + sigma**2) for sigma in (10.0, 1.0))
    assert_close(variance, second**2 * (first**2 * (STD**2 + 100) + 1))


def test_without_a_variance_the_learned_one_is_refused():
    sampler = SAMPLERS["ddpm"](
        torch.ones(1, 1, 2, 2), truncated(2), lambda purpose, shape: torch.zeros(shape), {"variance": "learned"}
    )
    next(sampler)
    with pytest.raises(ValueError, match="this network gives no variance; choose small or large"):
        sampler.send(Answer(torch.zeros(1, 1, 2, 2)))


class TestAdaptive:
    """The embedded pair: errors follow the tolerance, rows go their own way, and no step is coarser than the grid's."""

    @staticmethod
    def walk(x: Tensor, sigmas: Tensor, tolerance: float) -> tuple[Tensor, list[int]]:
        """What it ends with, and how many queries each row had."""
        counts = [0] * len(x)
        sampler = SAMPLERS["adaptive"](x, sigmas, lambda purpose, shape: torch.zeros(shape), {"tolerance": tolerance})
        try:
            query = next(sampler)
            while True:
                for row in range(len(x)) if query.rows is None else query.rows.tolist():
                    counts[row] += 1
                query = sampler.send(Answer(WORLD.denoise(query.x, query.sigma)))
        except StopIteration as stop:
            return stop.value, counts

    @staticmethod
    def starts(generator) -> Tensor:
        """Rows of very different size: the larger ones need more steps."""
        return (
            10
            * torch.randn(5, 1, 2, 2, generator=generator, dtype=torch.float64)
            * torch.tensor([0.01, 0.3, 1, 3, 10]).reshape(-1, 1, 1, 1)
        )

    def test_the_error_falls_with_the_tolerance(self, generator):
        x, sigmas = self.starts(generator), power_grid(400, sigma_min=0.01, sigma_max=10)[:-1]
        exact = WORLD.path(x, 10.0, 0.01)
        tolerances = (0.3, 0.03, 0.003)
        found = [self.walk(x, sigmas, tolerance) for tolerance in tolerances]
        errors = [(x0 - exact).abs().max().item() for x0, _ in found]
        assert errors[0] > 3 * errors[1] > 9 * errors[2]
        assert sum(found[0][1]) < sum(found[1][1]) < sum(found[2][1])

    def test_rows_take_as_many_steps_as_they_need_and_not_more(self, generator):
        x, sigmas = self.starts(generator), power_grid(200, sigma_min=0.01, sigma_max=10)
        _, counts = self.walk(x, sigmas, 0.03)
        assert counts == sorted(counts)
        assert counts[0] < counts[-1] < 3 * 200 - 2

    def test_a_row_does_not_depend_on_its_company(self, generator):
        x, sigmas = self.starts(generator), power_grid(60, sigma_min=0.01, sigma_max=10)
        whole, counts = self.walk(x, sigmas, 0.05)
        for row in range(len(x)):
            alone, (count,) = self.walk(x[row : row + 1], sigmas, 0.05)
            assert count == counts[row]
            assert_close(alone[0], whole[row], rtol=0, atol=1e-12)

    @pytest.mark.parametrize(("longer", "taken"), [(1.5, 1.5), (3.0, 3.0), (8.0, 5.0)])
    def test_a_step_follows_from_the_error_of_the_one_before(self, generator, longer, taken):
        """By the root mean square of Heun's change to Euler's step over tolerance sqrt(1 + s^2), the next is 0.9 / sqrt(error)
        times as long in log(sigma), at most 5 times; the tolerance is chosen for that here."""
        x = 10 * torch.randn(1, 1, 2, 2, generator=generator, dtype=torch.float64)
        sigmas = loguniform_grid(200, sigma_min=0.01, sigma_max=10)
        t, s = sigmas[:2].tolist()
        slope = (x - WORLD.denoise(x, torch.tensor([t]).double())) / t
        x_euler = x + (s - t) * slope
        change = (s - t) / 2 * ((x_euler - WORLD.denoise(x_euler, torch.tensor([s]).double())) / s - slope)
        error = (0.9 / longer) ** 2
        tolerance = change.square().mean().sqrt().item() / (error * math.sqrt(1 + s**2))
        sampler = SAMPLERS["adaptive"](x, sigmas, lambda purpose, shape: torch.zeros(shape), {"tolerance": tolerance})
        levels, query = [], next(sampler)
        for _ in range(4):
            levels.append(query.sigma.item())
            query = sampler.send(Answer(WORLD.denoise(query.x, query.sigma)))
        assert levels == pytest.approx([t, s, s, s * (s / t) ** taken], rel=1e-6)

    def test_without_tolerance_it_is_heun_on_the_grid(self, generator):
        x, sigmas = self.starts(generator), power_grid(12, sigma_min=0.01, sigma_max=10)
        found, counts = self.walk(x, sigmas, 1e-12)
        heun = SAMPLERS["heun"]
        assert_close(
            found, run("heun", x, sigmas, lambda purpose, shape: torch.zeros(shape), **heun.defaults), rtol=0, atol=1e-9
        )
        assert max(counts) <= SAMPLERS["adaptive"].queries(12, {})

    def test_one_step_is_the_denoiser(self, generator):
        x = self.starts(generator)
        found, counts = self.walk(x, torch.tensor([10.0, 0.0]).double(), 0.05)
        assert counts == [1] * 5
        assert_close(found, WORLD.denoise(x, torch.full((5,), 10.0)))


def test_the_reverse_sde_is_the_limit_of_the_ancestral_sampler():
    """One step of `sde` with lam 1 is a step of `ddpm` with the small variance, to the last bit of float64 but one."""
    sigmas = truncated(7)
    first, second = (
        marginal(name, sigmas, **options)[1]
        for name, options in (("sde", {"lam": 1.0}), ("ddpm", {"variance": "small"}))
    )
    assert_close(first, second, rtol=1e-12, atol=0)
    assert math.isclose(sigmas[0].item(), 10.0)
