"""Building blocks: magnitudes are preserved, folding changes nothing, attention is torch's."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from stages.nets.blocks import (
    BRANCH_GAIN,
    MAIN_GAIN,
    SILU_GAIN,
    Attention,
    Block,
    MPWeight,
    SkipConcat,
    SkipMerge,
    attend,
    double,
    half,
    lerp_gains,
    unit_norm,
)
from tests.stages.tiny import rms, wake


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def block(**changed) -> Block:
    settings = {"encoder": False, "self_attention": False, "cross_dim": 0, "head_dim": 16, "dropout": 0.0}
    return Block(64, 32, **(settings | changed))


def test_silu_gain_makes_unit_variance():
    """E silu(z)^2 over a normal z, by quadrature."""
    z = torch.linspace(-12, 12, 20_001, dtype=torch.float64)
    density = (-z.square() / 2).exp() / (2 * torch.pi) ** 0.5
    power = torch.trapezoid(density * F.silu(z).square(), z).item()
    assert power**0.5 * SILU_GAIN == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("t", [0.0, 0.3, 0.5, 1.0])
def test_lerp_of_two_unit_variances_has_unit_variance(t):
    a, b = lerp_gains(t)
    assert a**2 + b**2 == pytest.approx(1)
    assert a * t == pytest.approx(b * (1 - t))


@pytest.mark.parametrize(("kernel", "shape"), [(0, (2048, 48)), (1, (2, 48, 32, 32)), (3, (2, 48, 32, 32))])
def test_weight_keeps_unit_variance_whatever_its_own_norm(kernel, shape):
    layer = MPWeight(48, 64, kernel)
    layer.weight.data *= torch.logspace(-2, 2, 64).reshape(-1, *[1] * (layer.weight.ndim - 1))
    y = layer(torch.randn(shape), gain=0.5)[..., 2:-2, 2:-2]  # away from the zeros around
    assert rms(y) == pytest.approx(0.5, rel=0.05)
    norms = torch.linalg.vector_norm(layer.normalised(2.0).flatten(1), dim=1)
    assert_close(norms, torch.full((64,), 2.0))


@pytest.mark.parametrize("kernel", [0, 1, 3])
def test_folding_changes_no_answer(kernel):
    layer = MPWeight(8, 5, kernel)
    x = torch.randn((4, 8) if kernel == 0 else (2, 8, 6, 6))
    before = layer(x, gain=1.7)
    layer.fold()
    folded = layer.weight.clone()
    layer.fold()
    assert torch.equal(layer.weight, folded)
    assert_close(layer(x, gain=1.7), before, rtol=1e-6, atol=1e-6)


def test_unit_norm():
    x = torch.randn(3, 7, 2, 2) * 9
    assert_close(unit_norm(x, dim=1).square().mean(1), torch.ones(3, 2, 2), rtol=1e-3, atol=0)
    assert torch.equal(unit_norm(torch.zeros(1, 4), dim=1), torch.zeros(1, 4))


@pytest.mark.parametrize("masked", [False, True])
def test_attend_on_a_cpu_is_torch_s_attention(masked, generator):
    q, k, v = (torch.randn(2, 3, n, 8, generator=generator) for n in (7, 5, 5))
    mask = torch.rand(2, 1, 1, 5, generator=generator) < 0.6 if masked else None
    if mask is not None:
        mask[..., 0] = True
    assert_close(attend(q, k, v, mask), F.scaled_dot_product_attention(q, k, v, attn_mask=mask), rtol=1e-5, atol=1e-6)


def test_attention_to_one_token_is_that_token(generator):
    """softmax over one key is 1: the answer is out(v) of the token plus the main path, whatever the query is."""
    attention = Attention(32, head_dim=16, context_dim=6)
    x, token = torch.randn(2, 32, 3, 3, generator=generator), torch.randn(2, 1, 6, generator=generator)
    branch = attention(x, token) - MAIN_GAIN * x
    assert_close(branch, branch[:, :, :1, :1].expand_as(branch), rtol=1e-4, atol=1e-5)
    assert branch[0].std() > 0


@pytest.mark.parametrize("size", [(8, 8), (6, 10), (3, 4)])
@pytest.mark.parametrize(("window", "shift"), [(4, 0), (4, 2), (3, 1), (12, 0)])
def test_windows_are_attention_under_a_mask(size, window, shift, generator):
    """Attention over all pixels where only those of one window may see each other gives the same, for any size."""
    torch.manual_seed(0)
    made = Attention(32, head_dim=16, window=window, shift=shift)
    x = torch.randn(2, 32, *size, generator=generator)
    row, col = ((torch.arange(num) + shift) // window for num in size)
    which = (row[:, None] * 1000 + col).flatten()
    pixels = x.flatten(2).transpose(1, 2)
    q = made._heads(made.q(pixels))
    k, v = (made._heads(part) for part in made.kv(pixels).chunk(2, dim=-1))
    y = attend(q, k, v, which[:, None] == which).transpose(1, 2).flatten(2)
    whole = (made.out(y, gain=BRANCH_GAIN) + MAIN_GAIN * pixels).transpose(1, 2).reshape(x.shape)
    assert_close(made(x), whole, rtol=1e-5, atol=1e-6)


def test_a_window_sees_its_own_pixels_alone(generator):
    torch.manual_seed(0)
    made = Attention(32, head_dim=16, window=4)
    x = torch.randn(1, 32, 8, 8, generator=generator)
    other = x.clone()
    other[..., 1, 5] += 3
    moved = (made(other) != made(x)).any(1)[0]
    assert moved[:4, 4:].all()
    assert moved.sum() == 16


def test_smooth_filters_are_torch_s_antialiased_ones(generator):
    x = torch.randn(2, 3, 8, 12, generator=generator)
    inside = (..., slice(1, -1), slice(1, -1))  # at the edge torch leaves out what is outside, here it is repeated
    smooth = F.interpolate(x, scale_factor=0.5, mode="bilinear", antialias=True, align_corners=False)
    assert_close(half(x, smooth=True)[inside], smooth[inside], rtol=1e-5, atol=1e-6)
    for filtered in (half(x.new_ones(1, 2, 6, 6), smooth=True), double(x.new_ones(1, 2, 6, 6), smooth=True)):
        assert_close(filtered, torch.ones_like(filtered))
    assert torch.equal(half(x), F.avg_pool2d(x, 2))
    assert half(double(x, smooth=True), smooth=True).shape == x.shape


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_concatenated_skips_preserve_magnitude_and_have_their_share(share, generator):
    torch.manual_seed(0)
    merge = SkipConcat(64, share)
    x, skip = torch.randn(2, 4, 64, 16, 16, generator=generator)
    assert rms(merge(x, skip)) == pytest.approx(1, abs=0.05)
    alone = rms(merge(0 * x, skip)) / rms(merge(x, 0 * skip))
    assert alone == pytest.approx(share / (1 - share), rel=0.15)


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_a_lerp_begins_with_the_skip_s_share(share):
    t = SkipMerge(3, share).balance.sigmoid()
    assert_close(t, torch.full((3,), share))


@pytest.mark.parametrize(
    "changed",
    [{}, {"encoder": True}, {"self_attention": True}, {"cross_dim": 6}, {"encoder": True, "self_attention": True}],
    ids=str,
)
def test_block_preserves_magnitude(changed, generator):
    """Unit in, unit out, within 15 %: attention averages values and convolution sees zeros around the picture."""
    made = wake(block(**changed))
    x = torch.randn(4, 64, 16, 16, generator=generator)
    context = torch.randn(4, 5, 6, generator=generator)
    assert rms(made(x, torch.randn(4, 32, generator=generator), context, None)) == pytest.approx(1, abs=0.15)


def test_encoder_block_forgets_the_scale_of_its_input(generator):
    made = wake(block(encoder=True))
    x, emb = torch.randn(2, 64, 8, 8, generator=generator), torch.randn(2, 32, generator=generator)
    assert_close(made(x, emb, None, None), made(1000 * x, emb, None, None), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("balance", [-3.0, 0.0, 2.0])
def test_skip_merge_preserves_magnitude(balance, generator):
    merge = SkipMerge(8)
    merge.balance.data.fill_(balance)
    x, skip = torch.randn(2, 4, 8, 32, 32, generator=generator)
    merged = merge(x, skip)
    assert rms(merged) == pytest.approx(1, abs=0.02)
    towards = torch.corrcoef(torch.stack([merged.flatten(), skip.flatten()]))[0, 1]
    assert (towards > 0.5**0.5) == (balance > 0)


def test_dropout_is_off_in_evaluation(generator):
    made = wake(block(dropout=0.5))
    x, emb = torch.randn(2, 64, 8, 8, generator=generator), torch.randn(2, 32, generator=generator)
    assert not torch.equal(made(x, emb, None, None), made(x, emb, None, None))
    made.eval()
    assert torch.equal(made(x, emb, None, None), made(x, emb, None, None))
