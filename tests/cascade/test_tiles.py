"""A picture in windows gets the answers that it gets whole, and none of its pixels is left out or asked for twice."""

from collections.abc import Generator
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from cascade.engine import tiles
from cascade.engine.host import Asks, own_host
from cascade.link import Link
from cascade.request import Request
from data.batch import Cond
from stages.build import build_stage
from stages.conditions.position import positions, with_positions
from stages.config import AugConfig, CondConfig, SampleConfig, SuperResConfig
from stages.diffusion.samplers import Answer, Query
from stages.guidance import guidance
from stages.nets.unet_config import UNetConfig
from stages.parametrisations.config import ParametrisationConfig
from stages.parametrisations.edm_config import EDMConfig
from stages.parametrisations.spectral_config import SpectralConfig

from .chains import finished, levels_apart, random_weights, sidecar, tiny

NETS = {
    "one level": UNetConfig(widths=(8,), blocks=(1,), emb_dim=16),
    "two levels": UNetConfig(widths=(8, 16), blocks=(1, 1), emb_dim=16),
    "patches": UNetConfig(widths=(8, 16), blocks=(1, 2), patch=2, emb_dim=16),
    "three levels": UNetConfig(widths=(8, 8, 8), blocks=(1, 1, 1), emb_dim=16),
}


def link_of(net: UNetConfig, parametrisation: ParametrisationConfig | None = None) -> Link:
    config = SuperResConfig(
        resolution=16, low_res=4, net=net, aug=AugConfig(max_sigma=1.0), parametrisation=parametrisation or EDMConfig()
    )
    stage = build_stage(config)
    stage.load_state_dict(random_weights(config))
    return Link(name="sr_16", hosts=own_host("sr_16", stage.eval()), sidecar=sidecar(config), settings=SampleConfig())


@pytest.mark.parametrize("net", NETS.values(), ids=NETS.keys())
def test_nothing_beyond_the_reach_decides_about_a_pixel(net):
    """Another input in one cell of the coarsest level changes outputs up to the reach, and no further."""
    link, halo = link_of(net), net.reach
    side, multiple = 6 * halo, link.sidecar.config.multiple
    middle = side // 2 // multiple * multiple
    x = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    changed = x.clone()
    changed[..., middle : middle + multiple, middle : middle + multiple] += 1
    cond = Cond.empty(1).given(low_res=torch.zeros_like(x), aug=torch.full((1,), 0.1))
    with torch.inference_mode():
        a, b = (link.stage.denoise(each, torch.ones(1), cond).x0_hat for each in (x, changed))
    rows = (a != b).any(1)[0].any(1).nonzero().flatten()
    assert rows.min() >= middle - halo
    assert rows.max() < middle + multiple + halo
    assert rows.max() - rows.min() > halo  # it is no number that is simply large


def driven(steps: Generator[Asks, list[Answer], Answer]) -> Answer:
    """What comes of the network's answers, each with a variance that its x0_hat tells."""
    answers = None
    while True:
        try:
            asked = steps.send(answers)
        except StopIteration as done:
            return done.value
        answers = [host.answer([ask], batch=2)[0] for host, ask in asked]
        answers = [replace(each, var=each.x0_hat.square()) for each in answers]


@pytest.mark.parametrize("net", NETS.values(), ids=NETS.keys())
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (2, 9)])
def test_windows_give_what_the_whole_gives(net, shape):
    link, halo = link_of(net), net.reach
    multiple = link.sidecar.config.multiple
    h, w = (num * halo + multiple for num in shape)
    generator = torch.Generator().manual_seed(0)
    x, low_res = (torch.randn(2, 3, h, w, generator=generator) for _ in range(2))
    query, cond = Query(x, torch.ones(2)), Cond.empty(2).given(low_res=low_res, aug=torch.full((2,), 0.1))
    found = tiles.tiles_of(link, (h, w), window=multiple)
    assert (len(found) > 1) == (max(shape) > 4 or shape == (3, 5))
    with torch.inference_mode():
        whole = link.stage.denoise(x, torch.ones(2), cond).x0_hat
        found = driven(tiles.answered(link, guidance(link.settings, cond, ()), query, window=multiple))
    torch.testing.assert_close(found.x0_hat, whole, rtol=0, atol=2e-5)
    assert torch.equal(found.var, found.x0_hat.square())


def test_a_tile_is_told_the_positions_that_training_told_of_its_crop():
    """Windows of a stage that is told positions give what the whole gives; told the corner's positions, they would not."""
    net, cond = NETS["one level"], CondConfig(position={})
    config = SuperResConfig(resolution=16, low_res=4, crop=8, net=net, cond=cond)
    stage = build_stage(config)
    stage.load_state_dict(random_weights(config))
    link = Link(name="sr_16", hosts=own_host("sr_16", stage.eval()), sidecar=sidecar(config), settings=SampleConfig())
    h, w = 4 * net.reach + 8, 6 * net.reach
    generator = torch.Generator().manual_seed(0)
    x, low_res = (torch.randn(1, 3, h, w, generator=generator) for _ in range(2))
    bare = Cond.empty(1).given(low_res=low_res, aug=torch.zeros(1))
    told, query = with_positions(bare, positions((h, w))), Query(x, torch.ones(1))
    found = tiles.tiles_of(link, (h, w), window=8)
    assert len(found) > 2
    (_, ask), *_ = guidance(link.settings, told, ()).asks(query)
    for tile in found:
        window = tiles.cut(ask, tile).cond.value("position")
        assert torch.equal(window[0], positions((h, w))[:, tile.rows[0], tile.cols[0]])
    with torch.inference_mode():
        whole = stage.denoise(x, torch.ones(1), told).x0_hat
        tiled = driven(tiles.answered(link, guidance(link.settings, told, ()), query, window=8)).x0_hat
        moved = stage.denoise(x, torch.ones(1), bare.given(position=told.value("position").roll(8, -1))).x0_hat
    torch.testing.assert_close(tiled, whole, rtol=0, atol=2e-5)
    assert (moved - whole).abs().amax() > 1e-2


@pytest.mark.parametrize("bands", [2, 4])
@pytest.mark.parametrize("beside", ["x0", "low_res"])
def test_bands_that_reach_further_than_the_network_widen_the_overlap(bands, beside):
    rows = tuple((0.1 * 3**k, 0.05 * 2**k, 0.04 * 2**k) for k in range(bands))
    form = SpectralConfig(bands=bands, std=rows, error=rows, mean=(0.5, 0.2, -0.3), beside=beside)
    link, plain = link_of(NETS["one level"], form), NETS["one level"].reach
    config = link.sidecar.config
    assert config.reach == max(plain, -(-form.reach // config.multiple) * config.multiple)
    assert (bands == 4) == (config.reach > plain)
    side = 5 * config.reach + config.multiple
    generator = torch.Generator().manual_seed(0)
    x, low_res = (torch.randn(1, 3, side, side, generator=generator) for _ in range(2))
    query, cond = Query(x, torch.ones(1)), Cond.empty(1).given(low_res=low_res, aug=torch.full((1,), 0.1))
    assert len(tiles.tiles_of(link, (side, side), window=config.multiple)) > 1
    with torch.inference_mode():
        whole = link.stage.denoise(x, torch.ones(1), cond).x0_hat
        found = driven(tiles.answered(link, guidance(link.settings, cond, ()), query, window=config.multiple))
    torch.testing.assert_close(found.x0_hat, whole, rtol=0, atol=2e-5)


@pytest.mark.parametrize("length", [10, 40, 41, 63, 64, 100, 1000])
def test_every_pixel_is_taken_once_and_far_from_inner_edges(length):
    taken = []
    for window, part, place in tiles.spans(length, 40, 12):
        assert window.stop - window.start == min(length, 40)
        assert place.stop - place.start == part.stop - part.start
        assert place.start - window.start == part.start
        assert part.start >= 12 or window.start == 0
        assert window.stop - place.stop >= 12 or window.stop == length
        taken += range(place.start, place.stop)
    assert taken == list(range(length))


def test_self_attention_sees_all_so_its_pictures_are_limited():
    net = UNetConfig(widths=(8, 16), blocks=(1, 1), emb_dim=16, self_attention=(1,), head_dim=8)
    link = link_of(net)
    assert net.reach is None
    assert len(tiles.tiles_of(link, (4096, 4096))) == 1
    assert tiles.most_pixels(link) == tiles.TOKENS * 4
    assert tiles.most_pixels(link_of(NETS["patches"])) == 0


def test_a_picture_too_large_for_self_attention_is_refused_before_any_work():
    model = tiny(8, 16)
    net = UNetConfig(widths=(8, 16), blocks=(1, 1), emb_dim=16, self_attention=(1,), head_dim=8)
    part = type(model)([replace(link_of(net), name="sr_16")])
    low_res = torch.zeros(1, dtype=torch.uint8).expand(1, 3, 100, 100)
    with pytest.raises(ValueError, match=r"400x400 px at stage sr_16, whose self-attention .* at most 32,768 px there"):
        part.check(Request(low_res=low_res))
    assert finished(part.sample(Request(low_res=low_res[..., :12, :12]))).shape == (1, 3, 48, 48)


@pytest.mark.parametrize("size", [(1, 1), (3, 7), (9, 11), (8, 8)])
def test_a_picture_of_any_size_becomes_factor_times_larger(size):
    """Sides that a network cannot halve are continued by the last pixels, and what was made of these is cut off."""
    net = UNetConfig(widths=(8, 16), blocks=(1, 1), emb_dim=16, patch=4)
    model = type(tiny(8))([link_of(net)])
    low_res = torch.randint(0, 256, (1, 3, *size), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    images = finished(model.sample(Request(low_res=low_res)))
    assert images.shape == (1, 3, 4 * size[0], 4 * size[1])
    continued = F.pad(low_res.float(), (0, size[1] % 2, 0, size[0] % 2), mode="replicate").to(torch.uint8)
    wider = finished(model.sample(Request(low_res=continued)))
    assert torch.equal(images, wider[..., : 4 * size[0], : 4 * size[1]])


def test_large_images_are_computed_fewer_at_a_time():
    model = tiny(8, 16)
    part = type(model)(model.links[1:])
    low_res = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    seen = []
    part.links[0].stage.net.register_forward_pre_hook(lambda net, given: seen.append(len(given[0])))
    images = finished(part.sample(Request(low_res=low_res, num=5, batch=8)))
    assert max(seen) == 1  # 32 px and what continues them: as much as nine images of 16 px
    assert levels_apart(images[0], images[4]) > 0
