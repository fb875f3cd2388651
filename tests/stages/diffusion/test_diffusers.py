"""Grids and samplers against diffusers' schedulers, in float64: the same levels, start, ideal denoiser and noise.

Schedulers keep their tables in float32; where they allow it they are given ours, so that what is compared is the algorithm. DDPM,
DDIM, DPM-Solver++ and UniPC hold X = x / sqrt(1 + sigma^2), the others x. Known differences are tests of their own.
"""

import math

import diffusers
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import stages.diffusion.multistep as multistep
from stages.config import SampleConfig
from stages.diffusion.langevin import corrected
from stages.diffusion.noise import BETAS, beta_table, loguniform_grid, power_grid
from stages.diffusion.samplers import SAMPLERS, drive
from tests.worlds import FiniteData

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")
PEERS = {"linear": "linear", "cosine": "squaredcos_cap_v2", "sigmoid": "sigmoid"}
NUM_STEPS = 12


@pytest.fixture
def x(generator) -> Tensor:
    return 10 * torch.randn(4, 3, 4, 4, generator=generator, dtype=torch.float64)


@pytest.fixture
def denoise():
    """Ideal, of wide blobs around five pictures: a smooth world, whose end still shows the whole path."""
    world = FiniteData(images=2 * torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(3)) - 1)

    def mixture(x: Tensor, sigma: Tensor) -> Tensor:
        wide = (sigma.double().square() + 0.25).sqrt()
        mean = world.denoise(x.double(), wide)
        return mean + (0.25 / wide.square())[:, None, None, None] * (x - mean)

    return mixture


class Draws:
    """Normal noise in the order in which it is drawn, the same for both sides."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(11)

    def __call__(self, purpose: str, shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=self.generator, dtype=torch.float64)


def ours(name: str, x: Tensor, sigmas: Tensor, denoise, **options) -> Tensor:
    kind = SAMPLERS[name]
    return drive(kind(x, sigmas, Draws(), {**kind.defaults, **options}), denoise)


def schedule(kind: str, beta: str = "linear", **options):
    return getattr(diffusers, kind)(beta_schedule=PEERS[beta], beta_start=1e-4, beta_end=0.02, **options)


class TestGrids:
    @pytest.mark.parametrize("name", list(PEERS))
    def test_the_table_of_a_beta_schedule(self, name):
        alpha_bars = schedule("DDPMScheduler", name).alphas_cumprod.double()
        assert_close(1 / (1 + beta_table(BETAS[name]()).square()), alpha_bars, rtol=2e-4, atol=1e-7)

    @pytest.mark.parametrize("name", list(PEERS))
    @pytest.mark.parametrize("spacing", ["trailing", "leading"])
    @pytest.mark.parametrize("num_steps", [1, 7, 10, 50, 1000])
    def test_which_levels_are_visited(self, name, spacing, num_steps):
        scheduler = schedule("DDPMScheduler", name, timestep_spacing=spacing)
        scheduler.set_timesteps(num_steps)
        settings = SampleConfig(grid=name, spacing=spacing, num_steps=num_steps, sigma_min=1e-6, sigma_max=1e6)
        expected = beta_table(BETAS[name]())[scheduler.timesteps]
        assert_close(settings.sigmas[:-1], expected, rtol=1e-12, atol=0)
        assert settings.sigma_start == pytest.approx(expected[0].item())

    @pytest.mark.parametrize("name", ["linear", "cosine"])
    def test_zero_terminal_snr(self, name):
        """diffusers puts its infinite level at 4096; ours is sigma_max, as are all that lie above that."""
        scheduler = schedule("EulerDiscreteScheduler", name, timestep_spacing="trailing", rescale_betas_zero_snr=True)
        scheduler.set_timesteps(20)
        settings = SampleConfig(grid=name, terminal_snr="zero", num_steps=20, sigma_max=1e6, sigma_min=1e-6)
        assert_close(settings.sigmas[1:], scheduler.sigmas.double()[1:], rtol=2e-3, atol=1e-4)
        bounded = SampleConfig(grid=name, terminal_snr="zero", num_steps=20, sigma_max=80)
        assert bounded.sigmas[0] == bounded.sigma_start == 80

    def test_log_uniform(self):
        scheduler = schedule("EulerDiscreteScheduler", use_exponential_sigmas=True)
        scheduler.set_timesteps(NUM_STEPS)
        sigmas = scheduler.sigmas.double()
        ours = loguniform_grid(NUM_STEPS, sigma_min=sigmas[-2].item(), sigma_max=sigmas[0].item())
        assert_close(ours, sigmas, rtol=1e-5, atol=0)

    def test_flow_with_a_shift(self):
        """Stable Diffusion 3's: t even, then shifted. diffusers shifts its own end twice, so the times are given."""
        scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
        times = np.linspace(0.98, 0.02, NUM_STEPS)
        scheduler.set_timesteps(sigmas=times)
        time = scheduler.sigmas.double()[:-1]
        sigma = time / (1 - time)
        settings = SampleConfig(
            grid="flow", shift=3.0, num_steps=NUM_STEPS, sigma_max=sigma[0].item(), sigma_min=sigma[-1].item()
        )
        assert_close(settings.sigmas[:-1], sigma, rtol=1e-4, atol=0)

    def test_a_shift_multiplies_the_levels_of_a_schedule(self):
        """Hoogeboom et al. 2023: logsnr moves by 2 log(64 / side), so sigma by side / 64."""
        wide = {"sigma_min": 1e-6, "sigma_max": 1e6, "num_steps": 10}
        assert_close(
            SampleConfig(grid="cosine", shift=4.0, **wide).sigmas, 4 * SampleConfig(grid="cosine", **wide).sigmas
        )


def in_vp(scheduler, x: Tensor, sigmas: Tensor, denoise, draws: Draws | None = None, num: int = 0, **options) -> Tensor:
    """diffusers' loop for a scheduler that holds X and is sent x0_hat. num: steps, by default all."""
    X = x / (1 + sigmas[0] ** 2).sqrt()
    for step, time in enumerate(scheduler.timesteps[: num or None]):
        x0_hat = denoise(X * (1 + sigmas[step] ** 2).sqrt(), sigmas[step].expand(len(x)))
        given = {} if draws is None else {"variance_noise": draws("", tuple(x.shape))}
        X = scheduler.step(x0_hat, time, X, **given, **options).prev_sample
    return X * (1 + sigmas[num or -1] ** 2).sqrt()


def multistepper(kind: str, sigmas: Tensor, **options):
    scheduler = getattr(diffusers, kind)(
        prediction_type="sample", final_sigmas_type="zero", use_karras_sigmas=True, **options
    )
    scheduler.set_timesteps(len(sigmas) - 1)
    scheduler.sigmas = sigmas
    return scheduler


class TestSamplers:
    sigmas = power_grid(NUM_STEPS, sigma_min=0.02, sigma_max=10)

    @pytest.mark.parametrize(("name", "order"), [("dpmpp_2m", 2), ("dpmpp_2m_sde", 2), ("sde", 1)])
    def test_dpm_solver(self, name, order, x, denoise):
        is_sde = name != "dpmpp_2m"
        scheduler = multistepper(
            "DPMSolverMultistepScheduler",
            self.sigmas,
            solver_order=order,
            algorithm_type="sde-dpmsolver++" if is_sde else "dpmsolver++",
            solver_type="midpoint",
        )
        theirs = in_vp(scheduler, x, self.sigmas, denoise, Draws() if is_sde else None)
        assert_close(ours(name, x, self.sigmas, denoise), theirs, rtol=0, atol=1e-5)

    def test_dpm_solver_3m_but_for_the_weight_of_the_second_derivative(self, x, denoise, monkeypatch):
        """Theirs is half of ours, and of second order (test_samplers.py has the order of ours); with half of it they agree."""
        options = {"solver_order": 3, "solver_type": "heun", "lower_order_final": False, "euler_at_final": True}
        scheduler = multistepper("DPMSolverMultistepScheduler", self.sigmas, **options)
        theirs = in_vp(scheduler, x, self.sigmas, denoise)
        assert (ours("dpmpp_3m", x, self.sigmas, denoise) - theirs).abs().max() > 1e-3
        differences = multistep.differences

        def halved(known, advance):
            first, second = differences(known, advance)
            return first, second / 2

        monkeypatch.setattr(multistep, "differences", halved)
        assert_close(ours("dpmpp_3m", x, self.sigmas, denoise), theirs, rtol=0, atol=1e-5)

    def test_unipc(self, x, denoise):
        scheduler = multistepper("UniPCMultistepScheduler", self.sigmas, solver_order=2, solver_type="bh2")
        theirs = in_vp(scheduler, x, self.sigmas, denoise)
        assert_close(ours("unipc", x, self.sigmas, denoise), theirs, rtol=0, atol=1e-5)

    @pytest.mark.parametrize("churn", [0.0, 4.0])
    def test_euler_with_churn(self, churn, x, denoise):
        """Theirs computes in float32."""
        scheduler = schedule("EulerDiscreteScheduler")
        scheduler.set_timesteps(NUM_STEPS)
        scheduler.sigmas = self.sigmas
        given = {"s_churn": churn, "s_tmin": 0.1, "s_tmax": 8.0, "s_noise": 1.01}
        options = {"churn": churn, "churn_min": 0.1, "churn_max": 8.0, "churn_noise": 1.01}
        draws, theirs = Draws(), x
        for step, time in enumerate(scheduler.timesteps):
            sigma = self.sigmas[step]
            rate = min(churn / NUM_STEPS, math.sqrt(2) - 1) if 0.1 <= sigma <= 8 else 0.0
            # their step adds the noise itself and wants the answer there, so it is added once before to ask
            state = draws.generator.get_state()
            raised = theirs
            if rate:
                raised = theirs + 1.01 * sigma * math.sqrt((1 + rate) ** 2 - 1) * draws("", tuple(x.shape))
                draws.generator.set_state(state)
            x0_hat = denoise(raised, (sigma * (1 + rate)).expand(len(x)))
            eps = (raised - x0_hat) / (sigma * (1 + rate))
            scheduler.is_scale_input_called = True
            theirs = scheduler.step(eps, time, theirs, generator=draws.generator, **given).prev_sample
        assert_close(ours("euler", x, self.sigmas, denoise, **options), theirs, rtol=0, atol=2e-5)

    def test_euler_ancestral(self, x, denoise):
        """It is `sde` with lam 1, `ddim` with eta 1 and `ddpm` with the small variance."""
        scheduler = schedule("EulerAncestralDiscreteScheduler")
        scheduler.set_timesteps(NUM_STEPS)
        scheduler.sigmas = self.sigmas
        draws, theirs = Draws(), x
        for step, time in enumerate(scheduler.timesteps):
            sigma = self.sigmas[step]
            eps = (theirs - denoise(theirs, sigma.expand(len(x)))) / sigma
            scheduler.is_scale_input_called = True
            theirs = scheduler.step(eps, time, theirs, generator=draws.generator).prev_sample
        for name, options in (("sde", {"lam": 1.0}), ("ddim", {"eta": 1.0}), ("ddpm", {"variance": "small"})):
            assert_close(ours(name, x, self.sigmas, denoise, **options), theirs, rtol=0, atol=2e-5)

    def test_heun(self, x, denoise):
        scheduler = schedule("HeunDiscreteScheduler")
        scheduler.set_timesteps(NUM_STEPS)
        scheduler.sigmas = torch.cat([self.sigmas[:1], self.sigmas[1:-1].repeat_interleave(2), self.sigmas[-1:]])
        theirs = x
        for time in scheduler.timesteps:
            scheduler.scale_model_input(theirs, time)
            sigma = scheduler.sigmas[scheduler.step_index]
            eps = (theirs - denoise(theirs, sigma.expand(len(x)))) / sigma
            theirs = scheduler.step(eps, time, theirs).prev_sample
        assert_close(ours("heun", x, self.sigmas, denoise), theirs, rtol=0, atol=1e-5)


class TestDiscrete:
    """Schedulers that know timesteps, on the grid of their own beta schedule."""

    settings = SampleConfig(grid="linear", num_steps=20, sigma_min=1e-6, sigma_max=1e6)

    def scheduler(self, kind: str, **options):
        scheduler = schedule(kind, timestep_spacing="trailing", clip_sample=False, prediction_type="sample", **options)
        scheduler.alphas_cumprod = 1 / (1 + beta_table(BETAS["linear"]()).square())
        scheduler.set_timesteps(20)
        return scheduler

    @pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
    def test_ddim(self, eta, x, denoise):
        """Its default ends at the first level of the schedule, not at 0: set_alpha_to_one is what ours does."""
        scheduler, sigmas = self.scheduler("DDIMScheduler", set_alpha_to_one=True), self.settings.sigmas
        theirs = in_vp(scheduler, 10 * x, sigmas, denoise, Draws() if eta else None, eta=eta)
        assert_close(ours("ddim", 10 * x, sigmas, denoise, eta=eta), theirs, rtol=0, atol=1e-5)

    @pytest.mark.parametrize("variance", ["small", "large"])
    def test_ddpm(self, variance, x, denoise):
        """Compared before the last step: to 0, theirs adds noise if the last timestep is not 0 and the variance is large."""
        scheduler, sigmas = self.scheduler("DDPMScheduler", variance_type=f"fixed_{variance}"), self.settings.sigmas
        draws = Draws()
        theirs = in_vp(scheduler, 10 * x, sigmas, denoise, num=19, generator=draws.generator)
        assert_close(ours("ddpm", 10 * x, sigmas[:-1], denoise, variance=variance), theirs, rtol=0, atol=1e-5)

    @pytest.mark.parametrize("variance", ["small", "large"])
    def test_the_variance_of_one_step_of_ddpm(self, variance):
        """Theirs is of X: times 1 + s^2 it is of x."""
        from stages.diffusion.first_order import ddpm_std
        from stages.diffusion.samplers import Answer

        scheduler, sigmas = self.scheduler("DDPMScheduler", variance_type=f"fixed_{variance}"), self.settings.sigmas
        for sigma, after, time in zip(sigmas.tolist(), sigmas[1:-1].tolist(), scheduler.timesteps, strict=False):
            theirs = scheduler._get_variance(time).item() * (1 + after**2)
            found = ddpm_std(Answer(torch.zeros(1)), sigma, after, variance)
            assert found**2 == pytest.approx(theirs, rel=1e-9)

    def test_multistep_consistency_but_for_where_x0_lies(self, x, denoise):
        """Theirs lies at sigma_min, so its noise has variance s^2 - sigma_min^2; ours s^2."""
        scheduler = diffusers.CMStochasticIterativeScheduler(
            sigma_min=1e-4, sigma_max=10, sigma_data=0.5, clip_denoised=False
        )
        scheduler.set_timesteps(6)
        scheduler.sigmas = scheduler.sigmas.double().clamp(min=1e-4)
        sigmas = torch.cat([scheduler.sigmas[:6], torch.zeros(1).double()])
        draws, theirs = Draws(), x
        for step, time in enumerate(scheduler.timesteps):
            scheduler.scale_model_input(theirs, time)
            skip, out = scheduler.get_scalings_for_boundary_condition(sigmas[step])
            x0_hat = denoise(theirs, sigmas[step].expand(len(x)))
            F = (x0_hat - skip * theirs) / out
            theirs = scheduler.step(F, time, theirs, generator=draws.generator).prev_sample
        assert_close(ours("consistency", x, sigmas, denoise), theirs, rtol=0, atol=1e-5)


class TestPredictorCorrector:
    """ScoreSdeVeScheduler, a step at a time, of one picture, for its sizes follow from the norms of a batch. Known to differ: it
    corrects before it predicts, ours after; its predictor is the reverse diffusion one, ours the ancestral one."""

    sigmas = power_grid(NUM_STEPS, sigma_min=0.02, sigma_max=10)[:-1]

    @staticmethod
    def draw(purpose: str, shape: tuple[int, ...]) -> Tensor:
        """What their corrector draws from a generator of `Draws`: in float32."""
        return torch.randn(shape, generator=Draws().generator).double()

    @pytest.fixture
    def scheduler(self):
        scheduler = diffusers.ScoreSdeVeScheduler(num_train_timesteps=NUM_STEPS, snr=0.15)
        scheduler.set_timesteps(NUM_STEPS)
        scheduler.discrete_sigmas = self.sigmas.flip(0)
        return scheduler

    def test_a_correction(self, scheduler, x, denoise):
        """Our size is r of x + r sigma^2 score, theirs that of x + size score."""
        sigma, x = 0.7, x[:1]
        gradient = (denoise(x, torch.tensor([sigma])) - x) / sigma**2
        size = 2 * (0.15 * self.draw("", tuple(x.shape)).norm() / gradient.norm()).item() ** 2
        theirs = scheduler.step_correct(gradient, x, generator=Draws().generator).prev_sample
        sampler = corrected(x, sigma, 0, self.draw, 1, size / sigma**2)
        assert_close(drive(sampler, denoise), theirs, rtol=0, atol=1e-5)

    def test_our_size_is_theirs_where_the_score_has_the_norm_of_noise_over_sigma(self, scheduler):
        """r = 2 snr^2, the same for every picture."""
        sigma, x0 = 0.7, torch.zeros(1, 3, 4, 4).double()
        z = self.draw("", tuple(x0.shape))
        theirs = scheduler.step_correct(z / sigma, x0, generator=Draws().generator).prev_sample
        found = drive(corrected(x0, sigma, 0, self.draw, 1, 2 * 0.15**2), lambda x, level: x + sigma * z)
        assert_close(found, theirs, rtol=0, atol=1e-5)

    def test_a_prediction_but_for_its_noise(self, scheduler, x, denoise):
        """The same mean; their noise has std sqrt(t^2 - s^2), ours s / t of it."""
        for step in (2, 7):
            t, s = self.sigmas[step : step + 2].tolist()
            gradient = (denoise(x, torch.full((4,), t)) - x) / t**2
            time = (NUM_STEPS - 1 - step + 1e-3) / (NUM_STEPS - 1)
            theirs = scheduler.step_pred(gradient, time, x, generator=Draws().generator)
            noise = theirs.prev_sample - theirs.prev_sample_mean
            found = ours("pc", x, torch.tensor([t, s]).double(), denoise, corrector_steps=0)
            assert_close(found, theirs.prev_sample_mean + s / t * noise, rtol=0, atol=1e-5)
            assert_close(noise, math.sqrt(t**2 - s**2) * Draws()("", tuple(x.shape)), rtol=0, atol=1e-5)
