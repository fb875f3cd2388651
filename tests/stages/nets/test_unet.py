"""What is the U-Net's own: magnitudes at every block, channels that return to their pixels, locality. The rest is in
test_contract.py."""

import pytest
import torch
from torch.testing import assert_close

from data.batch import Cond
from stages.nets.blocks import Block
from stages.nets.ports import Ports
from stages.nets.unet import UNet
from tests.stages.tiny import PORTS, rms, text_cond, unet_config, wake

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
