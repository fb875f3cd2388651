"""Positions: those of a crop, of a tile and of a whole picture agree at every cell; a network that is told them uses them."""

from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError
from torch.testing import assert_close

from cascade.engine.canvas import Canvas
from data.batch import Batch, Cond
from stages.build import build_stage
from stages.conditions.position import positions
from stages.config import BaseConfig, CondConfig, SuperResConfig
from stages.draws import Draws
from stages.objectives.denoising import DENOISING
from stages.sampling import conditioned, noise_of
from stages.training.engine import LocalEngine
from tests.stages.tiny import shapes_batch, train_config, unet_config, wake

NET = unet_config(widths=(16,), blocks=(1,))


def sr(**changed) -> SuperResConfig:
    values = {"low_res": 4, "resolution": 16, "crop": 8, "net": NET, "cond": {"position": {}}}
    return SuperResConfig(**(values | {"train": train_config(flip=True)} | changed))


def test_both_axes_have_zero_mean_and_unit_variance():
    there = positions((64, 16))
    assert_close(there.mean((1, 2)), torch.zeros(2), atol=1e-6, rtol=0)
    assert_close(there.var((1, 2), unbiased=False), torch.ones(2), atol=0.01, rtol=0)
    assert torch.equal(there[0], there[0, :, :1].expand(64, 16))
    assert torch.equal(there[1], there[1, :1].expand(64, 16))
    assert (there[0].diff(dim=0) > 0).all()
    assert (there[1].diff(dim=1) > 0).all()


def test_a_crop_is_told_what_the_whole_has_there():
    """The crop's corner, found by its picture, which tells each pixel's number, is the corner of its positions."""
    side = 16
    stage = build_stage(sr(train=train_config()))
    numbered = torch.arange(side * side, dtype=torch.uint8).reshape(1, 1, side, side).expand(6, 3, side, side)
    batch = Batch(image=numbered, cond=Cond.empty(6), index=torch.arange(6), keys=tuple("abcdef"))
    x0, cond = stage.prepared(batch, Draws(batch, 0), None)
    corners = ((x0[:, 0, 0, 0] + 1) * 127.5).round().long()
    assert len(set(corners.tolist())) > 1
    whole = positions((side, side))
    for corner, told in zip(corners.tolist(), cond.value("position"), strict=True):
        row, column = divmod(corner, side)
        assert torch.equal(told, whole[:, row : row + 8, column : column + 8])


def test_a_mirrored_picture_is_told_where_its_crop_lies_now():
    """Left is left for the network, however the picture was turned: mirroring changes x0 and no position."""
    plain, mirrored = build_stage(sr(train=train_config())), build_stage(sr(train=train_config(flip=True)))
    batch = shapes_batch(8, 16)
    one, other = (stage.prepared(batch, Draws(batch, 0), None)[1] for stage in (plain, mirrored))
    assert torch.equal(one.value("position"), other.value("position"))


def test_a_whole_picture_and_a_margin():
    stage = build_stage(sr())
    cond = conditioned(
        stage, Cond.empty(2), torch.zeros(2, 3, 4, 6), stage.config.sample, noise_of("s", 0, torch.arange(2), "cpu")
    )
    assert torch.equal(cond.value("position"), positions((16, 24)).expand(2, 2, 16, 24))
    canvas = Canvas.of(stage.config, (12, 20), continued=True)
    whole = canvas.positions()
    assert whole.shape[1:] == canvas.size
    assert torch.equal(canvas.cut(whole), positions((12, 20)))
    assert torch.equal(whole, canvas.framed(positions((12, 20))))


def test_where_it_is_dropped_it_says_nothing(generator):
    stage = wake(build_stage(sr())).eval()
    x, sigma = torch.randn(2, 3, 16, 16, generator=generator), torch.ones(2)
    given = Cond.empty(2).given(low_res=torch.zeros_like(x), aug=torch.zeros(2))
    told = given.given(position=positions((16, 16)).expand(2, 2, 16, 16))
    none = stage.denoise(x, sigma, given).x0_hat
    assert torch.equal(stage.denoise(x, sigma, told.dropped(("position",))).x0_hat, none)
    assert (stage.denoise(x, sigma, told).x0_hat - none).abs().amax() > 1e-3


def test_it_has_a_share_of_its_own_in_which_it_is_dropped():
    stage = build_stage(sr(cond={"position": {"drop": 0.3}, "num_classes": 9, "drop": 0.5}))
    batch = shapes_batch(40, 16)
    _, cond = stage.prepared(batch, Draws(batch, 0), None)
    u = Draws(batch, 0).uniforms
    assert torch.equal(cond.parts["position"].keep, u["drop_position"] >= 0.3)
    assert torch.equal(cond.parts["label"].keep, u["drop"] >= 0.5)
    assert not torch.equal(u["drop"] >= 0.5, u["drop_position"] >= 0.3)
    assert CondConfig(position={}).names == ()


@pytest.mark.parametrize("make", [BaseConfig, SuperResConfig])
def test_without_crops_there_is_no_position(make):
    values = {"resolution": 16, "net": NET, "cond": {"position": {}}}
    values |= {"low_res": 4} if make is SuperResConfig else {}
    for crop in ({}, {"crop": 16}) if make is SuperResConfig else ({},):
        with pytest.raises(
            ValidationError, match=r"cond\.position says where .* this stage trains on whole pictures; set crop"
        ):
            make(**values, **crop)


def striped(num: int, start: int) -> Batch:
    """Gray pictures with stripes along rows in the upper half, along columns in the lower: too fine for low_res, and both the same
    in a crop of one half, so that only the position tells which they are."""
    rows = torch.arange(16) % 2 * 160 + 40
    upper = torch.arange(16)[:, None].expand(16, 16) < 8
    picture = torch.where(upper, rows[:, None].expand(16, 16), rows[None].expand(16, 16)).to(torch.uint8)
    keys = tuple(str(start + k) for k in range(num))
    return Batch(
        image=picture.expand(num, 3, 16, 16), cond=Cond.empty(num), index=torch.arange(start, start + num), keys=keys
    )


@pytest.mark.slow
def test_it_learns_what_lies_where():
    config = sr(crop=8, train=train_config(images=1200, batch=8, lr=0.05, warmup=80))
    torch.manual_seed(0)
    stage = build_stage(config)
    engine = LocalEngine(stage, config.train, torch.device("cpu"))
    for nimg in range(0, 1200, 8):
        engine.update([striped(8, nimg)], 0.05 * (1 - nimg / 1200))
    stage.eval()
    batch = striped(64, 10**5)
    draws = Draws(batch, 1)
    x0, cond = stage.prepared(batch, draws, None)
    levels = DENOISING.levels(stage, draws.uniforms["sigma"]).to(x0)
    there = cond.parts["position"]
    right, wrong, untold = (
        DENOISING.loss(stage, x0, replace(cond, parts={**cond.parts, "position": part}), levels, draws).mean().item()
        for part in (
            there,
            replace(there, value=there.value.flip(2)),
            replace(there, keep=torch.zeros_like(there.keep)),
        )
    )
    assert right < 0.7 * wrong
    assert right < untold
