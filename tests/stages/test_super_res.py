"""What a super-resolution stage is given in training: windows of one enlarged picture, noised by the level it is told."""

import pytest
import torch
from torch.testing import assert_close

from data.batch import to_float
from data.resize import downsample, upsample
from stages.build import build_stage
from stages.config import AugConfig, BaseConfig, SuperResConfig
from stages.diffusion.samplers import Answer
from stages.draws import Draws
from tests.stages.tiny import shapes_batch, sr_config, unet_config
from tests.worlds import TINY_NET, finite_stage

NUM = 64
ATTENTIVE = r"net\.self_attention with crop > 0: attention over a crop is not attention over the picture; drop one"


def forward(config: SuperResConfig, num: int = NUM, size: int = 16):
    """The one call that `forward` makes of its denoiser, with the batch it came from."""
    batch = shapes_batch(num, size)
    stage = finite_stage(config, to_float(batch.image)[:2])
    seen = []

    def denoise(x, sigma, cond):
        seen.append((x, sigma, cond.value("low_res"), cond.value("aug")))
        return Answer(x)

    stage.denoise = denoise
    losses = stage(batch, 0)
    return batch, stage, seen[0], losses


def config(**changed) -> SuperResConfig:
    return SuperResConfig(**({"resolution": 16, "low_res": 4, "net": TINY_NET} | changed))


def test_without_augmentation_the_condition_is_exactly_upsample():
    batch, _, (_, _, low_res, aug_sigma), _ = forward(config(aug=AugConfig(max_sigma=0.0)))
    assert aug_sigma.abs().max() == 0
    expected = upsample(downsample(to_float(batch.image), (4, 4)), (16, 16))
    assert torch.equal(low_res, expected)


def test_the_level_told_is_the_level_applied():
    """(low_res - upsample) / aug_sigma is standard normal noise, image by image, at every level."""
    batch, _, (x, sigma, low_res, aug_sigma), _ = forward(config(aug=AugConfig(max_sigma=2.0)))
    x0 = to_float(batch.image)
    eps = (low_res - upsample(downsample(x0, (4, 4)), (16, 16))) / aug_sigma[:, None, None, None]
    clear = aug_sigma > 1e-3
    spread = (2 / eps[0].numel()) ** 0.5
    assert (eps[clear].square().flatten(1).mean(1) - 1).abs().max() < 4 * spread
    other = ((x - x0) / sigma[:, None, None, None]).flatten(1)
    correlation = (other[clear] * eps[clear].flatten(1)).mean(1)
    assert correlation.abs().max() < 4 / eps[0].numel() ** 0.5  # two noises, not one used twice


def test_levels_go_as_the_square_of_a_uniform_number():
    _, _, (_, _, _, aug_sigma), _ = forward(config(aug=AugConfig(max_sigma=3.0)), num=2000, size=16)
    quartiles = (aug_sigma / 3).sqrt().quantile(torch.tensor([0.25, 0.5, 0.75]))
    assert_close(quartiles, torch.tensor([0.25, 0.5, 0.75]), rtol=0, atol=0.05)


@pytest.mark.parametrize("factor", [2, 4])
def test_crops_are_windows_of_the_enlarged_picture_on_the_low_res_grid(factor):
    """Each condition is found in the enlarged whole picture at one corner, a multiple of the factor; x0's window is there too."""
    settings = config(low_res=16 // factor, crop=8, aug=AugConfig(max_sigma=0.0))
    batch = shapes_batch(NUM, 16)
    stage = build_stage(settings)
    u = Draws(batch, 0).uniforms
    x0 = to_float(batch.image)
    whole = stage.enlarge(downsample(x0, (settings.low_res, settings.low_res)))
    cropped, low_res = stage._aligned_crops((x0, whole), u)
    corners = set()
    for k in range(NUM):
        places = [
            (row, col)
            for row in range(0, 9, factor)
            for col in range(0, 9, factor)
            if torch.equal(low_res[k], whole[k, :, row : row + 8, col : col + 8])
        ]
        assert any(torch.equal(cropped[k], x0[k, :, r : r + 8, c : c + 8]) for r, c in places)
        corners |= set(places[:1])
    assert {row for row, _ in corners} == set(range(0, 9, factor))  # the first place and the last too
    assert {col for _, col in corners} == set(range(0, 9, factor))
    assert len(corners) > len({row for row, _ in corners})  # row and column are drawn each by itself


def test_crops_of_the_condition_equal_its_own_enlargement_inside():
    """The low-res grid is aligned: enlarging the small window gives the window of the enlargement, off its border."""
    stage = build_stage(config(crop=8))
    low_res = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    whole = stage.enlarge(low_res)
    part = stage.enlarge(low_res[..., 4:12, 4:12])
    assert_close(part[..., 8:-8, 8:-8], whole[..., 24:-24, 24:-24], rtol=0, atol=1e-5)


def test_a_crop_as_large_as_the_picture_is_the_picture():
    for crop in (0, 16):
        batch, _, (x, *_), losses = forward(config(crop=crop), num=4)
        assert x.shape == batch.image.shape
        assert losses.per_image.shape == (4,)


def test_crops_are_what_forward_trains_on():
    _, _, (x, _, low_res, _), _ = forward(config(crop=8), num=4)
    assert x.shape == low_res.shape == (4, 3, 8, 8)


def test_larger_shards_are_downsampled_first():
    batch, _, (x, sigma, *_), _ = forward(config(aug=AugConfig(max_sigma=0.0)), num=4, size=32)
    assert x.shape == (4, 3, 16, 16)
    x0 = downsample(to_float(batch.image), (16, 16))
    assert ((x - x0) / sigma[:, None, None, None]).square().mean().item() == pytest.approx(1, abs=0.1)


def test_the_network_is_told_the_error_of_its_condition():
    """sqrt(aug_sigma^2 + low_res_sigma^2): what augmentation added and what upsampling had lost."""
    stage = build_stage(config(low_res_sigma=0.3))
    assert_close(stage.parametrisation.error(torch.tensor([0.0, 0.4])), torch.tensor([0.3, 0.5]))
    assert build_stage(BaseConfig(resolution=4, net=TINY_NET)).parametrisation.error(None) is None


def test_starts_as_a_wiener_filter_of_its_two_inputs(generator):
    """A fresh network answers 0, so x0_hat is the precision-weighted mean of x, low_res and 0."""
    stage = build_stage(config(low_res_sigma=0.3))
    x, low_res = torch.randn(2, 2, 3, 16, 16, generator=generator)
    sigma, aug_sigma = torch.tensor([0.1, 5.0]), torch.tensor([0.4, 0.0])
    a, b, c = sigma**-2, torch.tensor([1 / 0.25, 1 / 0.09]), torch.tensor(1 / 0.25)
    expected = ((a / (a + b + c))[:, None, None, None] * x) + (b / (a + b + c))[:, None, None, None] * low_res
    with torch.no_grad():
        cond = shapes_batch(2, 16).cond.given(low_res=low_res, aug=aug_sigma)
        found = stage.denoise(x, sigma, cond).x0_hat
    assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"low_res": 5}, "must be a multiple of low_res"),
        ({"low_res": 16}, "at least twice as large"),
        ({"crop": 10}, "multiple of the factor"),
        ({"crop": 32}, "must be at most"),
        ({"crop": 8, "net": unet_config(self_attention=(1,))}, ATTENTIVE),
        (
            {"net": unet_config(widths=(16,) * 6, blocks=(1,) * 6)},
            r"resolution 16 is no multiple of 32 = patch x 2\^\(levels - 1\); use fewer levels",
        ),
        ({"sample": {"aug_sigma": 2.0}}, "never trained"),
        ({"aug": {"max_sigma": -1.0}}, "greater than or equal to 0"),
        ({"crops": 8}, "Extra inputs"),
    ],
    ids=str,
)
def test_configs_that_cannot_be_meant_are_refused(changed, said):
    with pytest.raises(ValueError, match=said):
        config(**changed)


def test_configs_of_the_tests_build():
    assert isinstance(sr_config(), SuperResConfig)
