"""The warp: where each pixel comes from, what the network is told, and that a warp of zeros is none."""

import pytest
import torch
from torch.testing import assert_close

from data.batch import to_float
from stages.build import build_stage
from stages.config import TrainConfig
from stages.draws import Draws
from stages.nets.embed import Embedding
from stages.nets.ports import Ports
from stages.warp import WIDTH, drawn, warped
from stages.warp_config import WarpConfig
from tests.stages.tiny import base_config, rms, shapes_batch, sr_config, wake

SHIFTS = WarpConfig(probability=1, shift=0.5, scale=0)
SCALES = WarpConfig(probability=1, shift=0, scale=1)
ALWAYS = WarpConfig(probability=1)
HALF = {"probability": 0.5}
ONCE = WIDTH / 2  # of a range, in units of the std


def moving(dx: float = 0.0, dy: float = 0.0, log_scale: float = 0.0) -> torch.Tensor:
    """The warp of one image, as shares of the largest."""
    return ONCE * torch.tensor([[dx, dy, log_scale]])


def pictures(num: int, channels: int, size: int = 16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (num, channels, size, size), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize(("right", "down"), [(3, 0), (0, 5), (-2, 4), (0, -1), (8, -8)])
def test_whole_pixels_are_a_roll_whose_inside_border_repeats_the_edge(channels, right, down):
    stored = pictures(1, channels)
    found = warped(stored, moving(right / 8, down / 8), SHIFTS)
    rows, columns = (torch.arange(16) - down).clamp(0, 15), (torch.arange(16) - right).clamp(0, 15)
    assert_close(found, stored[:, :, rows][..., columns].float(), rtol=0, atol=2e-3)


def test_a_fraction_of_a_pixel_is_the_mean_of_two():
    stored = pictures(1, 3)
    found = warped(stored, moving(0.5 / 8), SHIFTS)
    values = stored.float()
    expected = (values + torch.cat([values[..., :1], values[..., :-1]], dim=-1)) / 2
    assert_close(found, expected, rtol=0, atol=2e-3)


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("log_scale", [-0.6, 0.3])
def test_scaling_is_about_the_centre(channels, log_scale):
    """Of a slope, on which bilinear sampling is exact: its slope falls by the factor; outside it stays at the edge's value."""
    ramp = (8 * torch.arange(16) + 64).to(torch.uint8).expand(1, channels, 16, 16)
    found = warped(ramp, moving(log_scale=log_scale), SCALES)
    centres = torch.arange(16) - 7.5
    expected = (64 + 8 * (7.5 + centres / torch.tensor(log_scale).exp())).clamp(64, 64 + 8 * 15)
    assert_close(found, expected.expand(1, channels, 16, 16), rtol=0, atol=2e-3)
    turned = warped(ramp.transpose(-1, -2), moving(log_scale=log_scale), SCALES)
    assert_close(turned.transpose(-1, -2), found, rtol=0, atol=2e-3)


def test_a_square_moves_after_it_was_scaled():
    """A white square of 8 px, halved and moved by 4 px right and 2 down."""
    stored = torch.zeros(1, 1, 32, 32, dtype=torch.uint8)
    stored[..., 12:20, 12:20] = 255
    config = WarpConfig(probability=1, shift=0.125, scale=float(torch.tensor(2.0).log()))
    found = warped(stored, moving(1, 0.5, -1), config)[0, 0] / 255
    assert found.sum().item() == pytest.approx(16, rel=1e-3)
    centres = torch.arange(32) + 0.5
    assert ((found.sum(0) * centres).sum() / 16).item() == pytest.approx(16 + 4, abs=1e-3)
    assert ((found.sum(1) * centres).sum() / 16).item() == pytest.approx(16 + 2, abs=1e-3)


def test_premultiplied_pictures_stay_premultiplied_and_their_margin_transparent():
    stored = torch.zeros(64, 4, 16, 16, dtype=torch.uint8)
    stored[:, 3, 4:12, 4:12] = 200
    stored[:, :3, 4:12, 4:12] = pictures(64, 3)[:, :, 4:12, 4:12] % 201
    warp = WIDTH * (torch.rand(64, 3, generator=torch.Generator().manual_seed(0)) - 0.5)
    found = warped(stored, warp, WarpConfig(probability=1))
    assert (found[:, :3] <= found[:, 3:] + 1e-3).all()
    assert found[..., 0, 0].abs().max() == 0


def test_frames_of_a_film_move_together():
    film = pictures(2, 3, 16).unflatten(0, (1, 2)).transpose(1, 2)  # (1, 3, 2, 16, 16)
    warp = moving(0.7, -0.3, 0.5)
    found = warped(film, warp, ALWAYS)
    for k in range(2):
        assert torch.equal(found[:, :, k], warped(film[:, :, k], warp, ALWAYS))


def test_pictures_that_are_not_warped_stay_as_they_are():
    stored = pictures(3, 3)
    assert warped(stored, torch.zeros(3, 3), ALWAYS) is stored
    warp = torch.zeros(3, 3)
    warp[1] = 0.7
    found = warped(stored, warp, ALWAYS)
    assert torch.equal(found[[0, 2]], stored[[0, 2]].float())
    assert not torch.equal(found[1], stored[1].float())


def test_the_told_warp_has_unit_std_and_the_share_of_the_config():
    generator = torch.Generator().manual_seed(0)
    u = {
        name: torch.rand(4000, dtype=torch.float64, generator=generator)
        for name in ("warp", "warp_x", "warp_y", "warp_scale")
    }
    warp = drawn(WarpConfig(probability=0.3), u)
    on = warp.any(1)
    assert on.double().mean().item() == pytest.approx(0.3, abs=4 * (0.3 * 0.7 / 4000) ** 0.5)
    assert_close(warp[on].std(0), torch.ones(3), rtol=0, atol=0.06)
    assert_close(warp[on].T.corrcoef(), torch.eye(3), rtol=0, atol=4 * on.sum().item() ** -0.5)
    assert warp.abs().max() <= ONCE
    assert not drawn(WarpConfig(probability=0), u).any()
    flat = drawn(WarpConfig(probability=1, scale=0), u)
    assert flat[:, :2].all()
    assert not flat[:, 2].any()


@pytest.mark.parametrize("flip", [False, True])
def test_the_network_is_told_how_the_picture_that_it_sees_has_moved(flip):
    """A white square in the middle: its centre of mass is where the told dx and dy say, mirrored or not."""
    config = base_config(flip=flip, augment={"probability": 1, "shift": 0.25, "scale": 0})
    stage, batch = build_stage(config), shapes_batch(32, 8)
    batch.image.zero_()
    batch.image[..., 3:5, 3:5] = 255
    x0, cond = stage.prepared(batch, Draws(batch, 0), None)
    told = cond.value("warp")
    mass, centres = (x0[:, 0] + 1) / 2, torch.arange(8) + 0.5
    total = mass.sum((1, 2))
    assert_close((mass.sum(1) * centres).sum(1) / total, 4 + 8 * 0.25 * told[:, 0] / ONCE, rtol=0, atol=1e-4)
    assert_close((mass.sum(2) * centres).sum(1) / total, 4 + 8 * 0.25 * told[:, 1] / ONCE, rtol=0, atol=1e-4)


def test_low_res_is_the_downsample_of_the_warped_picture():
    stage, batch = build_stage(sr_config(crop=0, augment=HALF)), shapes_batch(8, 16)
    batch.cond.parts["label"].value.zero_()
    x0, cond = stage.prepared(batch, Draws(batch, 0), None)
    changed = (cond.value("warp") != 0).any(1)
    assert changed.any()
    assert (~changed).any()
    noise = cond.value("low_res") - stage.enlarge(stage.space.down(x0, (8, 8)))
    level = cond.value("aug")[:, None, None, None]
    assert_close(noise, level * Draws(batch, 0).noise("aug", x0.shape), rtol=0, atol=1e-5)
    flipped = stage.flipped(batch, Draws(batch, 0).uniforms)
    plain = stage.space.mirrored(to_float(batch.image), flipped)
    assert torch.equal(x0[~changed], plain[~changed])
    assert ((x0 - plain)[changed].abs().flatten(1).amax(1) > 0.1).all()


@pytest.mark.parametrize(
    "config", [base_config(augment=HALF, flip=True), sr_config(augment=HALF)], ids=["base", "crop"]
)
class TestStage:
    @pytest.fixture
    def stage(self, config):
        torch.manual_seed(0)
        return wake(build_stage(config))

    def test_zeros_told_are_exactly_none(self, stage):
        batch = shapes_batch(4, 16)
        x0, cond = stage.eval().prepared(batch, Draws(batch, 0), None)
        assert not cond.value("warp").any()
        sigma = torch.ones(4)
        told, absent = (stage.denoise(x0, sigma, part).x0_hat for part in (cond, cond.without("warp")))
        assert torch.equal(told, absent)
        other = stage.denoise(x0, sigma, cond.given(warp=torch.ones(4, 3))).x0_hat
        assert ((other - told).abs().flatten(1).amax(1) > 1e-3).all()

    def test_the_loss_of_an_image_does_not_depend_on_its_batch(self, stage):
        batch = shapes_batch(8, 16)
        together = stage(batch, 0).per_image
        alone = torch.cat([stage(batch[k : k + 1], 0).per_image for k in range(8)])
        assert_close(together, alone, rtol=1e-4, atol=1e-5)
        x0, cond = stage.prepared(batch, Draws(batch, 0), None)
        for k in range(8):
            own = batch[k : k + 1]
            x0_k, cond_k = stage.prepared(own, Draws(own, 0), None)
            assert torch.equal(x0_k, x0[k : k + 1])
            assert torch.equal(cond_k.value("warp"), cond.value("warp")[k : k + 1])

    def test_validation_warps_nothing(self, stage, config):
        batch = shapes_batch(8, 16)
        plain = build_stage(
            config.model_copy(update={"train": config.train.model_copy(update={"augment": WarpConfig()})})
        )
        x0, cond = stage.eval().prepared(batch, Draws(batch, 0), None)
        expected, described = plain.prepared(batch, Draws(batch, 0), None)
        assert torch.equal(x0, expected)
        assert set(cond.parts) == {*described.parts, "warp"}

    def test_the_map_is_learned(self, stage):
        stage(shapes_batch(8, 16), 0).loss.backward()
        assert stage.net.embedding.warp.weight.grad.abs().max() > 0


def test_embedding_of_a_warp_keeps_its_magnitude(generator):
    torch.manual_seed(0)
    embedding = Embedding(512, Ports(inputs=3, outputs=3, classes={"label": 4}, vectors={"warp": 3}))
    cond = shapes_batch(64, 8).cond
    noise, warp = torch.randn(64, generator=generator), torch.randn(64, 3, generator=generator)
    plain, told = embedding(noise, cond.without("label")), embedding(noise, cond.without("label").given(warp=warp))
    assert rms(plain) == pytest.approx(1, abs=0.1)
    assert rms(told) == pytest.approx(1.25, abs=0.15)  # variance 1 + 1 / 2 before the SiLU


def test_without_it_networks_and_weights_are_as_they_were():
    assert base_config().ports == base_config(augment={"probability": 0, "shift": 1}).ports
    assert "warp" not in build_stage(base_config()).net.embedding._modules
    assert base_config(augment=HALF).ports.vectors == {"warp": 3}


def test_a_warp_that_moves_nothing_is_refused():
    with pytest.raises(
        ValueError, match=r"probability 0\.5 with shift 0 and scale 0 moves nothing; set shift or scale"
    ):
        TrainConfig(augment={"probability": 0.5, "shift": 0, "scale": 0})
    for wrong in ({"probability": 1.5}, {"shift": -0.1}, {"scale": 2}, {"probability": float("nan")}):
        with pytest.raises(ValueError, match=r"less than or equal to 1|greater than or equal to 0"):
            TrainConfig(augment=wrong)
