"""The U-Net as a function: magnitudes at the start, conditioning, independence of rows, locality, folding."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from data.batch import Cond
from stages.nets.blocks import Block
from stages.nets.ports import Ports
from stages.nets.unet import UNet
from tests.stages.tiny import PORTS, changed, rms, text_cond, text_unet, unet_config, wake

ROWS = 4
PIXELS = Ports(inputs=3, outputs=3)


@pytest.fixture
def cond(generator):
    return text_cond(ROWS, generator)


def inputs(generator, size=16, rows=ROWS):
    x = torch.randn(rows, 6, size, size, generator=generator)
    return x, torch.randn(rows, generator=generator), torch.randn(rows, generator=generator)


def test_magnitudes_at_the_start(cond, generator):
    """Every block's output has nearly unit variance, down and up a network of four levels.

    A skip and what came of it are correlated, which their merge does not count on: up to a third more on the way up.
    """
    torch.manual_seed(0)
    config = unet_config(widths=(32, 32, 48, 64), blocks=(2, 2, 2, 2), self_attention=(2,), cross_attention=(2, 3))
    net = wake(UNet(config, PORTS))
    seen = []
    for block in net.modules():
        if isinstance(block, Block):
            block.register_forward_hook(lambda _module, _inputs, output: seen.append(rms(output)))
    x, noise, aug = inputs(generator, size=64)
    out = net(x, noise, cond.given(aug=aug))
    assert len(seen) == 17
    assert seen[:9] == pytest.approx([1.0] * 9, abs=0.2)
    assert seen[9:] == pytest.approx([1.15] * 8, abs=0.2)
    assert rms(out) == pytest.approx(1.15, abs=0.2)


def test_starts_by_answering_zero(cond, generator):
    torch.manual_seed(0)
    net = UNet(unet_config(), replace(PORTS, tokens={}))
    x, noise, aug = inputs(generator)
    assert net(x, noise, cond.given(aug=aug)).abs().max() == 0


@pytest.mark.parametrize("patch", [1, 2, 4])
@pytest.mark.parametrize("size", [(16, 16), (32, 16), (8, 40)])
def test_any_multiple_is_accepted(patch, size, generator):
    torch.manual_seed(0)
    config = unet_config(patch=patch)
    net = wake(UNet(config, PIXELS))
    assert config.multiple == 2 * patch
    out = net(torch.randn(2, 3, *size, generator=generator), torch.zeros(2), Cond.empty(2))
    assert (out.shape, out.dtype) == ((2, 3, *size), torch.float32)


def test_patch_unfolds_where_it_folded(generator):
    """A picture changed in one pixel changes near that pixel only, so channels return to their own places."""
    torch.manual_seed(0)
    net = wake(UNet(unet_config(patch=2, widths=(16,), blocks=(1,)), PIXELS))
    x = torch.randn(1, 3, 64, 64, generator=generator)
    other = x.clone()
    other[..., 20, 40] += 5
    difference = (net(other, torch.zeros(1), Cond.empty(1)) - net(x, torch.zeros(1), Cond.empty(1))).abs().amax(1)[0]
    rows, cols = torch.nonzero(difference > 1e-4, as_tuple=True)
    assert rows.double().mean() == pytest.approx(20.5, abs=2)
    assert cols.double().mean() == pytest.approx(40.5, abs=2)


def test_folding_changes_no_answer(cond, generator):
    net, arguments = text_unet().eval(), inputs(generator)
    x, noise, aug = arguments
    before = net(x, noise, cond.given(aug=aug))
    net.fold()
    assert_close(net(x, noise, cond.given(aug=aug)), before, rtol=1e-4, atol=1e-5)


def test_dropped_row_is_exactly_the_null_row(cond, generator):
    net, (x, noise, aug) = text_unet(), inputs(generator)
    dropped = net(x, noise, cond.dropped(cond.parts, torch.tensor([True, False, True, False])).given(aug=aug))
    kept, null = net(x, noise, cond.given(aug=aug)), net(x, noise, cond.dropped(cond.parts).given(aug=aug))
    assert torch.equal(dropped[1::2], null[1::2])
    assert torch.equal(dropped[0::2], kept[0::2])
    assert (kept - null).abs().flatten(1).amax(1).min() > 0.01
    assert_close(net(x, noise, Cond.empty(ROWS).given(aug=aug)), null, rtol=1e-4, atol=1e-5)  # fewer tokens to sum over


def test_masked_tokens_have_no_influence(cond, generator):
    net, (x, noise, aug) = text_unet(), inputs(generator)
    cond = cond.given(aug=aug)
    text = cond.parts["text"]
    other = torch.where(text.mask[..., None], text.value, 1e3 * torch.randn(text.value.shape, generator=generator))
    assert torch.equal(net(x, noise, changed(cond, "text", value=other)), net(x, noise, cond))
    shown = changed(cond, "text", value=other, mask=torch.ones_like(text.mask))
    assert not torch.allclose(net(x, noise, shown)[0], net(x, noise, cond)[0], atol=1e-3)


def test_a_row_does_not_depend_on_its_neighbours(cond, generator):
    net, (x, noise, aug) = text_unet(), inputs(generator)
    before = net(x, noise, cond.given(aug=aug))
    x2, noise2, aug2 = inputs(generator)
    row = torch.arange(ROWS) == 2
    mixed = net(
        torch.where(row[:, None, None, None], x, 50 * x2),
        torch.where(row, noise, noise2),
        changed(
            cond.dropped(cond.parts, row), "text", value=torch.where(row[:, None, None], cond.value("text"), 9.0)
        ).given(aug=torch.where(row, aug, aug2)),
    )
    assert torch.equal(mixed[2], before[2])
    alone = net(x[2:3], noise[2:3], cond.given(aug=aug)[2:3])
    assert_close(alone, before[2:3], rtol=1e-4, atol=1e-5)  # another batch size may sum in another order


@pytest.mark.parametrize("patch", [1, 2])
def test_without_self_attention_a_crop_sees_what_the_whole_picture_sees(patch, cond, generator):
    """Far from the crop's border; what far means is the reach of the convolutions, 18 pixels of a patch."""
    torch.manual_seed(0)
    config = unet_config(patch=patch, cross_attention=(1,))
    net = wake(UNet(config, PORTS))
    size, crop, at, reach = 64 * patch, 48 * patch, 8 * patch, 18 * patch
    x, noise, aug = inputs(generator, size=size, rows=1)
    whole = net(x, noise, cond[:1].given(aug=aug))[..., at : at + crop, at : at + crop]
    part = net(x[..., at : at + crop, at : at + crop], noise, cond[:1].given(aug=aug))
    inside = (..., slice(reach, crop - reach), slice(reach, crop - reach))
    assert_close(part[inside], whole[inside], rtol=1e-4, atol=1e-5)
    assert (part - whole).abs().max() > 0.1  # at the border it cannot


def test_bfloat16_stays_near(cond, generator):
    net, (x, noise, aug) = text_unet(), inputs(generator)
    exact = net(x, noise, cond.given(aug=aug))
    net.compute_dtype = torch.bfloat16
    rough = net(x, noise, cond.given(aug=aug))
    assert rough.dtype == torch.float32
    assert rms(rough - exact) / rms(exact) < 0.05
    assert {p.dtype for p in net.parameters()} == {torch.float32}


def test_every_parameter_learns(cond, generator):
    """With all gains awake each parameter gets a gradient: nothing is connected to nothing."""
    net, (x, noise, aug) = text_unet(), inputs(generator)
    net(
        x, noise, cond.dropped(cond.parts, torch.tensor([True, True, True, False])).given(aug=aug)
    ).square().mean().backward()
    silent = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert silent == []
