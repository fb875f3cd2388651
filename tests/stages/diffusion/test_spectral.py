"""Octave bands, and spectral preconditioning against Gaussian worlds of known spectrum, where nothing is left for a network."""

from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor
from torch.testing import assert_close

from stages.build import build_stage
from stages.config import BaseConfig, SuperResConfig
from stages.diffusion.bands import Bands
from stages.diffusion.noise import power_grid
from stages.diffusion.parametrisation import EDM
from stages.diffusion.samplers import SAMPLERS, all_options, drive
from stages.diffusion.spectral import Spectral, colours
from stages.parametrisations.octaves import octaves
from stages.texts import as_values
from tests.stages.tiny import base_config, shapes_batch, sr_config

SIGMAS = torch.tensor([0.003, 0.05, 0.4, 1.5, 20.0, 80.0], dtype=torch.float64)


def boxes(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Means of 2 x 2 px."""
    assert size == (image.shape[-2] // 2, image.shape[-1] // 2)
    return F.avg_pool2d(image, 2)


def copies(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Each px four times: with `boxes` an orthogonal projection, so that the bands are orthogonal, too."""
    return F.interpolate(image, size=size, mode="nearest")


HAAR = partial(Bands, shrink=boxes, grow=copies)


class TestBands:
    @pytest.mark.parametrize("size", [(64, 64), (16, 48), (37, 21), (5, 8)])
    @pytest.mark.parametrize("num", [1, 2, 4])
    def test_they_add_up_to_the_picture_at_any_size(self, num, size, generator):
        x = torch.randn(2, 3, *size, generator=generator, dtype=torch.float64)
        assert_close(sum(octaves(num).split(x)), x, rtol=0, atol=1e-12)

    @pytest.mark.parametrize("size", [(64, 64), (16, 48), (37, 21)])
    def test_weighted_in_one_pass_is_the_sum_of_weighted_bands(self, size, generator):
        bands, weights = octaves(4), [0.3, -2.0, 1.5, 0.7]
        x = torch.randn(2, 3, *size, generator=generator, dtype=torch.float64)
        steps = [weights[0], *(b - a for a, b in pairwise(weights))]
        found = bands.weighted(x, lambda k, level: steps[k] * level)
        parts = bands.split(x)
        assert_close(found, sum(w * part for w, part in zip(weights, parts, strict=True)), rtol=0, atol=1e-12)

    def test_a_constant_lies_in_the_coarsest_band_alone(self):
        *finer, coarsest = octaves(3).split(torch.full((1, 1, 24, 40), 0.7, dtype=torch.float64))
        assert max(band.abs().max() for band in finer) < 1e-12
        assert_close(coarsest, torch.full_like(coarsest, 0.7), rtol=0, atol=1e-12)

    @pytest.mark.parametrize("bands", [octaves(4), HAAR(num=4)], ids=["the resize", "boxes"])
    def test_gains_are_the_energies_of_white_noise(self, bands, generator):
        x = torch.randn(400, 1, 32, 16, generator=generator, dtype=torch.float64)
        found = [band.square().mean().item() for band in bands.split(x)]
        assert found == pytest.approx(bands.gains((32, 16)), rel=0.1)

    def test_of_orthogonal_bands_the_gains_are_the_shares(self):
        assert HAAR(num=4).gains((32, 16)) == pytest.approx(octaves(4).shares, abs=1e-12)
        assert sum(octaves(4).shares) == 1

    @pytest.mark.parametrize("num", [1, 2, 3])
    def test_a_pixel_matters_up_to_the_reach_and_no_further(self, num):
        bands = octaves(num)
        side = 4 * bands.reach + 8
        x = torch.zeros(1, 1, side, side, dtype=torch.float64)
        x[..., side // 2, side // 2] = 1
        for band in bands.split(x):
            rows = (band[0, 0] != 0).any(1).nonzero().flatten()
            assert rows.min() >= side // 2 - bands.reach
            assert rows.max() <= side // 2 + bands.reach
        assert rows.max() - rows.min() >= bands.reach  # it is no number that is simply large

    def test_a_window_on_a_multiple_agrees_with_the_whole_beyond_the_reach(self, generator):
        bands = octaves(3)
        x = torch.randn(1, 3, 128, 96, generator=generator, dtype=torch.float64)
        window, inner = slice(20, 100), slice(20 + bands.reach, 100 - bands.reach)
        for whole, part in zip(bands.split(x), bands.split(x[..., window, :]), strict=True):
            assert_close(part[..., bands.reach : -bands.reach, :], whole[..., inner, :], rtol=0, atol=1e-12)


STD = ((0.1, 0.04, 0.06), (0.5, 0.2, 0.1), (1.6, 0.7, 0.9))
LOST = ((0.09, 0.03, 0.05), (0.3, 0.1, 0.02), (0.05, 0.04, 0.02))
MEAN = (0.3, -0.1, 0.5)


@dataclass(frozen=True, kw_only=True)
class BandWorld:
    """x0 normal with mean m and the variances of `std` by orthogonal band and opponent colour, (3, 8, 8) px. Everything is done by
    matrices over all 192 values, with nothing of the code under test but the split of a unit picture."""

    std: tuple = STD

    @property
    def mean(self) -> Tensor:
        return torch.tensor(MEAN, dtype=torch.float64)[:, None, None].expand(3, 8, 8).flatten()

    def covariance(self, stds: tuple) -> Tensor:
        """Of a sum over bands and colours of white noise of these stds."""
        unit = torch.eye(64, dtype=torch.float64).reshape(64, 1, 8, 8)
        spaces = [band.reshape(64, 64) for band in HAAR(num=3).split(unit)]
        mix = colours(3, opponent=True)
        return sum(
            std**2 * torch.kron(torch.outer(mix[c], mix[c]), space)
            for space, row in zip(spaces, stds, strict=True)
            for c, std in enumerate(row)
        )

    def posterior(self, sigma: float, aug: float | None = None, beside: str = "x0") -> tuple[Tensor, Tensor, Tensor]:
        """Matrices of x - m and low_res - m in E[x0 - m], and the covariance of what is left."""
        data, one = self.covariance(self.std), torch.eye(192, dtype=torch.float64)
        seen, cross = data + sigma**2 * one, data
        if aug is not None:
            lost = self.covariance(LOST)
            shared = data if beside == "x0" else data - lost  # covariance of low_res with x0
            low = shared + aug**2 * one + (lost if beside == "x0" else 0 * lost)
            seen = torch.cat([torch.cat([seen, shared], 1), torch.cat([shared, low], 1)])
            cross = torch.cat([data, shared], 1)
        gain = torch.linalg.solve(seen, cross.T).T
        return gain[:, :192], gain[:, 192:], data - gain @ cross.T

    def form(self, *, low: bool = False, beside: str = "x0") -> Spectral:
        return Spectral(std=self.std, lost=LOST if low else None, mean=MEAN, beside=beside, bands=HAAR(num=3))


class TestGaussianWorld:
    @pytest.mark.parametrize("sigma", SIGMAS.tolist())
    @pytest.mark.parametrize("aug", [None, 0.1, 1.0])
    @pytest.mark.parametrize("beside", ["x0", "low_res"])
    def test_a_network_that_answers_zero_is_the_optimal_denoiser(self, sigma, aug, beside, generator):
        world = BandWorld()
        x, low_res = torch.randn(2, 4, 3, 8, 8, generator=generator, dtype=torch.float64)
        of_x, of_low, _ = world.posterior(sigma, aug, beside)
        expected = world.mean + (x.flatten(1) - world.mean) @ of_x.T
        given = ()
        if aug is not None:
            expected += (low_res.flatten(1) - world.mean) @ of_low.T
            given = (low_res, torch.full((4,), aug, dtype=torch.float64))
        form = world.form(low=aug is not None, beside=beside)
        found = form.estimate(torch.zeros_like(x), x, torch.full((4,), sigma, dtype=torch.float64), *given).x0_hat
        assert_close(found.flatten(1), expected, rtol=0, atol=1e-9)

    @pytest.mark.parametrize("aug", [None, 0.1, 1.0])
    @pytest.mark.parametrize("beside", ["x0", "low_res"])
    def test_its_loss_is_one_at_every_level(self, aug, beside):
        world = BandWorld()
        form = world.form(low=aug is not None, beside=beside)
        level = None if aug is None else torch.full_like(SIGMAS, aug)
        risks = torch.stack([world.posterior(sigma, aug, beside)[2].trace() / 192 for sigma in SIGMAS.tolist()])
        assert_close(form.weight(SIGMAS, level) * risks, torch.ones_like(risks), rtol=1e-6, atol=0)

    def test_what_the_network_adds_is_weighed_so_that_the_loss_is_its_squared_error(self, generator):
        form, x, output = BandWorld().form(), *torch.randn(2, 6, 3, 8, 8, generator=generator, dtype=torch.float64)
        added = form.estimate(output, x, SIGMAS).x0_hat - form.estimate(torch.zeros_like(x), x, SIGMAS).x0_hat
        assert_close(form.weight(SIGMAS) * added.square().mean((1, 2, 3)), output.square().mean((1, 2, 3)))

    @pytest.mark.parametrize("sampler", ["heun", "dpmpp_2m"])
    def test_samples_of_the_ode_have_the_spectrum(self, sampler):
        """The sampler is affine in its start: sent through it, the unit vectors give the covariance of samples, with no draws."""
        world, top = BandWorld(), 300.0
        levels = power_grid(150, sigma_min=1e-3, sigma_max=top)
        start = torch.cat([torch.zeros(1, 192), torch.eye(192)]).double().reshape(-1, 3, 8, 8) * top

        def denoise(x: Tensor, sigma: Tensor) -> Tensor:
            return world.form().estimate(torch.zeros_like(x), x, sigma).x0_hat

        options = {name: option.default for name, option in all_options().items()}
        steps = SAMPLERS[sampler](start, levels, lambda purpose, shape: torch.zeros(shape), options)
        ended = drive(steps, denoise).flatten(1)
        assert_close(ended[0], world.mean, rtol=0, atol=0.02)  # what is left of it at sigma 300
        linear = (ended[1:] - ended[0]).T
        assert_close(linear @ linear.T, world.covariance(STD), rtol=0, atol=5e-3)

    def test_its_inputs_have_unit_variance(self):
        """Over all bands and colours, of x and of a low_res whose error is independent of x0."""
        world = BandWorld()
        form = world.form(low=True)
        level = torch.full_like(SIGMAS, 0.4)
        unit = torch.ones(6, 3, 8, 8, dtype=torch.float64)
        scaled = form.inputs(unit + world.mean.reshape(3, 8, 8), SIGMAS, unit + world.mean.reshape(3, 8, 8), level).x
        spread = (world.covariance(STD).trace() / 192, world.covariance(LOST).trace() / 192)
        for scale, variance in ((scaled[:, 0, 0, 0], spread[0] + SIGMAS**2), (scaled[:, 3, 0, 0], sum(spread) + 0.16)):
            assert_close(scale**2 * variance, torch.ones_like(SIGMAS), rtol=1e-5, atol=0)


class TestAgainstEDM:
    @pytest.mark.parametrize("bands", [1, 4])
    @pytest.mark.parametrize("low", [False, True])
    def test_the_same_numbers_in_every_band_are_edm(self, bands, low, generator):
        """Float32, as in training."""
        x, low_res, output = torch.randn(3, 6, 3, 16, 16, generator=generator)
        sigma, given = SIGMAS.float(), (low_res, torch.linspace(0, 1, 6)) if low else ()
        form = Spectral(std=((0.6,) * 3,) * bands, lost=((0.2,),) * bands if low else None, bands=octaves(bands))
        edm = EDM(sigma_data=0.6, low_res_sigma=0.2 if low else None)
        assert_close(form.estimate(output, x, sigma, *given).x0_hat, edm.estimate(output, x, sigma, *given).x0_hat)
        assert_close(form.weight(sigma, *given[1:]), edm.weight(sigma, *given[1:]), rtol=1e-5, atol=0)
        for one, other in zip(form.inputs(x, sigma, *given), edm.inputs(x, sigma, *given), strict=True):
            if other is not None:
                assert_close(one, other)

    @pytest.mark.parametrize("low", [False, True])
    def test_one_band_and_one_colour_is_edm_bit_for_bit(self, low):
        keys = {"kind": "spectral", "bands": 1, "std": [[0.6]], "beside": "x0"} | ({"error": [[0.2]]} if low else {})
        config = sr_config() if low else base_config()
        same = config.model_validate(config.model_dump() | {"parametrisation": keys})
        losses = []
        for each in (config, same):
            torch.manual_seed(0)
            losses.append(build_stage(each)(shapes_batch(4, each.resolution), seed=0).per_image)
        assert torch.equal(*losses)


class TestColours:
    @pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
    def test_they_are_orthonormal_and_leave_other_channels_alone(self, channels):
        mix = colours(channels, opponent=True)
        assert_close(mix @ mix.T, torch.eye(channels, dtype=torch.float64))
        assert torch.equal(mix[3:, 3:], torch.eye(max(channels - 3, 0), dtype=torch.float64))
        assert torch.equal(colours(channels, opponent=False), torch.eye(channels, dtype=torch.float64))

    def test_alpha_is_filtered_by_itself(self, generator):
        x = torch.randn(1, 4, 16, 16, generator=generator)
        form = Spectral(std=((0.1, 0.2, 0.3, 0.4), (1, 2, 3, 4)), mean=(0.1, 0.2, 0.3, 0.4), bands=octaves(2))
        alone = Spectral(std=((0.4,), (4,)), mean=(0.4,), bands=octaves(2))
        level = torch.ones(1)
        whole = form.estimate(torch.zeros_like(x), x, level).x0_hat
        assert_close(whole[:, 3:], alone.estimate(torch.zeros_like(x[:, 3:]), x[:, 3:], level).x0_hat)

    def test_an_axis_of_time_is_so_many_pictures(self, generator):
        x, low_res = torch.randn(2, 2, 3, 5, 8, 16, generator=generator)
        form = Spectral(std=STD, lost=LOST, mean=MEAN, beside="low_res", bands=octaves(3))
        given = torch.tensor([0.3, 2.0]), torch.tensor([0.1, 0.4])
        whole = form.estimate(x, x, given[0], low_res, given[1]).x0_hat
        for k in range(5):
            frame = form.estimate(x[:, :, k], x[:, :, k], given[0], low_res[:, :, k], given[1]).x0_hat
            assert_close(whole[:, :, k], frame)


def spectral(config, **keys):
    """The config under spectral preconditioning."""
    return config.model_validate(config.model_dump() | {"parametrisation": {"kind": "spectral"} | keys})


ROWS = [[0.1, 0.1, 0.1], [0.5, 0.3, 0.3]]


class TestConfig:
    def test_it_is_written_and_read_again(self):
        config = spectral(sr_config(), bands=2, std=ROWS, error=ROWS, mean=[0, 0, 1])
        values = as_values(config)
        assert SuperResConfig.model_validate(values) == config
        assert values["parametrisation"]["std"] == ROWS

    @pytest.mark.parametrize(
        ("keys", "message"),
        [
            ({"bands": 3, "std": ROWS}, "std has 2 rows, bands is 3"),
            ({"bands": 2, "std": [[1, 2], [1, 2]]}, r"std has 2 numbers a row; 1 or 3 are needed"),
            ({"bands": 2, "std": ROWS, "mean": [1]}, "mean has 1 numbers a row; 3 are needed"),
            ({"bands": 2, "std": ROWS, "error": ROWS}, "error is given, but no low_res is taken"),
            ({"bands": 2, "std": [[1], [0]]}, "greater than 0"),
            ({"bands": 2, "error": ROWS}, "std is measured, error or mean is not"),
            ({"bands": 5}, r"resolution 8 is no multiple of 16 = 2\^\(parametrisation.bands - 1\); set fewer bands"),
        ],
    )
    def test_what_does_not_fit_is_refused_in_a_line(self, keys, message):
        with pytest.raises(ValidationError, match=message):
            spectral(base_config(), **keys)

    def test_a_super_resolution_stage_needs_an_error(self):
        with pytest.raises(ValidationError, match="error is missing: a stage that takes low_res needs it"):
            spectral(sr_config(), bands=2, std=ROWS)

    def test_crops_halve_evenly_too(self):
        with pytest.raises(ValidationError, match="crop 8 is no multiple of 16"):
            spectral(sr_config(), bands=5)

    def test_nothing_measured_is_no_stage(self):
        stage = build_stage(spectral(base_config(), bands=2))
        with pytest.raises(ValueError, match="nothing was measured yet"):
            stage(shapes_batch(4, 8), seed=0)

    def test_the_reach_of_a_stage_is_the_larger_of_network_and_bands(self):
        net = {"widths": (8,), "blocks": (1,), "emb_dim": 8}
        config = BaseConfig(resolution=64, net=net)
        assert config.reach == config.net.reach
        wide = spectral(config, bands=4)
        assert wide.reach == max(8 * 7, config.net.reach)
        assert wide.reach % wide.multiple == 0
