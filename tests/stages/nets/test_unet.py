"""What is the U-Net's own: magnitudes at every block, channels that return to their pixels, locality. The rest is in
test_contract.py."""

import pytest
import torch
from torch.testing import assert_close

from data.batch import Cond
from stages.nets.blocks import Block, MPWeight
from stages.nets.ports import Ports
from stages.nets.unet import UNet
from stages.texts import as_values
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


@pytest.mark.parametrize("merges", ["lerp", "concat"])
@pytest.mark.parametrize("resample_filter", ["box", "smooth"])
def test_a_pixels_channels_lie_side_by_side(merges: str, resample_filter: str, cond, generator):
    """Into every convolution: a layout that is lost on the way costs a third of the time, and no result tells."""
    net = wake(UNet(unet_config(skip=merges, resample_filter=resample_filter, patch=2), PORTS))
    seen = []
    for weight in net.modules():
        if isinstance(weight, MPWeight) and weight.weight.ndim == 4:
            weight.register_forward_pre_hook(
                lambda _module, inputs: seen.append(inputs[0].is_contiguous(memory_format=torch.channels_last))
            )
    x, noise, aug = inputs(generator)
    net(x, noise, cond.given(aug=aug))
    assert seen
    assert all(seen)


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


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"decoder_blocks": (1,)}, "decoder_blocks has 1 levels, widths has 2; give each level one, or leave it out"),
        ({"windows": (4, 4, 4)}, "windows has 3 levels"),
        ({"head_dims": (8,)}, "head_dims has 1 levels"),
        ({"shifted": True}, "shifted moves windows, and there are none"),
        ({"self_attention": (0,), "head_dims": (12, 16)}, "width 16 of level 0 is no multiple of head_dim 12"),
    ],
)
def test_options_that_do_not_fit_are_refused(keys, told):
    with pytest.raises(ValueError, match=told):
        unet_config(**keys)


def test_options_at_their_defaults_are_not_written():
    """A bundle of today is read by the version before."""
    assert set(as_values(unet_config())) == {
        "kind", "widths", "blocks", "patch", "self_attention", "cross_attention", "head_dim", "emb_dim", "dropout",
    }  # fmt: skip


def test_the_efficient_order_computes_at_half_the_resolution(generator):
    """A level without blocks: the picture is halved before the first of them, and comes back by a skip, so no detail is lost."""
    torch.manual_seed(0)
    config = unet_config(widths=(8, 16), blocks=(0, 1))
    net = wake(UNet(config, PIXELS))
    seen = []
    for block in net.blocks():
        block.register_forward_hook(lambda _module, _inputs, output: seen.append(output.shape[-1]))
    x = torch.randn(1, 3, 16, 16, generator=generator)
    out = net(x, torch.zeros(1), Cond.empty(1))
    assert seen == [8, 8, 8]
    checks = x + torch.where(
        (torch.arange(16)[:, None] + torch.arange(16)) % 2 == 0, 1.0, -1.0
    )  # box filters see none of it
    assert (net(checks, torch.zeros(1), Cond.empty(1)) - out).abs().mean() > 0.05
