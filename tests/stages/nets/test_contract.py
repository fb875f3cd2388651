"""What every network in the registry keeps: magnitudes at the start, sizes, conditions, rows that do not mix, folding, compiling,
cheap numbers, checkpoints, and costs that are counted. A network joins by lines in NETS."""

import shutil
from copy import deepcopy
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor
from torch.testing import assert_close

from data.batch import Cond
from stages.config import BaseConfig, CondConfig
from stages.kinds.config import NetConfig
from stages.nets.config import NetworkConfig
from stages.nets.network import Network
from stages.nets.ports import Ports
from stages.nets.registry import NETWORKS
from stages.texts import as_values
from stages.tools.cost import cost_of
from tests.stages.tiny import TEXT_DIM, changed, rms, text_cond, text_config, wake

UNET = {"kind": "unet", "widths": (16, 32), "blocks": (1, 1), "head_dim": 16, "emb_dim": 32}
ATTENDING = UNET | {"self_attention": (1,), "cross_attention": (0, 1)}
DIT = {"kind": "dit", "width": 32, "depth": 2, "head_dim": 16, "mlp": 2, "emb_dim": 32}
NETS: dict[str, dict[str, Any]] = {
    "unet": ATTENDING,
    "unet-local": UNET | {"cross_attention": (1,)},
    "unet-patch-4": ATTENDING | {"patch": 4},
    "unet-efficient": ATTENDING | {"blocks": (0, 2), "decoder_blocks": (0, 1), "skip": "concat", "head_dims": (8, 16)},
    "unet-smooth": UNET
    | {"resample_filter": "smooth", "decoder_blocks": (2, 0), "skip_share": 0.3, "cross_attention": (0,)},
    "unet-windows": ATTENDING | {"self_attention": (0, 1), "blocks": (2, 1), "windows": (4, 3), "shifted": True},
    "dit": DIT,
    "dit-cross": DIT | {"text": "cross", "head": "conv"},
    "dit-joined": DIT | {"text": "joined", "patch": 4},
}
ROWS = 4
PORTS = Ports(
    inputs=6, outputs=3, levels=("aug",), vectors={"warp": 3}, classes={"label": 4}, tokens={"text": TEXT_DIM},
    numbers={"original_size": 2},
)  # fmt: skip
NAMES = ("label", "text", "original_size")


@pytest.fixture(params=NETS)
def config(request) -> NetworkConfig:
    return TypeAdapter(NetConfig).validate_python(NETS[request.param])


@pytest.fixture
def net(config) -> Network:
    """With gains as training leaves them: everything reaches the output."""
    torch.manual_seed(0)
    return wake(config.build(PORTS))


@pytest.fixture
def given(generator) -> tuple[Tensor, Tensor, Cond]:
    """x, noise and cond of ROWS rows, with every part that PORTS has."""
    x = torch.randn(ROWS, 6, 16, 16, generator=generator)
    cond = text_cond(ROWS, generator).given(
        aug=torch.randn(ROWS, generator=generator),
        warp=torch.randn(ROWS, 3, generator=generator),
        original_size=torch.randn(ROWS, 2, generator=generator),
    )
    return x, torch.randn(ROWS, generator=generator), cond


def test_every_network_is_here():
    assert {given["kind"] for given in NETS.values()} == set(NETWORKS)


def test_unit_variance_at_the_start(config, given, generator):
    """Gains of conditions are 0 and the output's is 1: as a network begins, but for the zero in front of its output. Of many
    cells, for convolutions see zeros around a picture; the mean over four networks, for these are narrow, and one alone is off by
    up to a half. Filters that average take some of noise away, which x is here."""
    _, noise, cond = given
    side = 16 * config.multiple
    x = torch.randn(ROWS, 6, side, side, generator=generator)
    power = []
    for seed in range(4):
        torch.manual_seed(seed)
        net = config.build(PORTS)
        with torch.no_grad():
            net.out_gain.fill_(1)
            power.append(rms(net(x, noise, cond)) ** 2)
    assert (sum(power) / 4) ** 0.5 == pytest.approx(1.0, abs=0.3)


def test_starts_by_answering_zero(config, given):
    torch.manual_seed(0)
    assert config.build(PORTS)(*given).abs().max() == 0


@pytest.mark.parametrize("times", [(1, 1), (3, 2), (1, 5)])
def test_any_multiple_is_accepted(config, net, times, given):
    size = tuple(config.multiple * number for number in times)
    x, noise, cond = given
    x = torch.randn(ROWS, 6, *size, generator=torch.Generator().manual_seed(1))
    out = net(x, noise, cond)
    assert (out.shape, out.dtype) == ((ROWS, 3, *size), torch.float32)
    assert out.isfinite().all()


def test_a_row_does_not_depend_on_its_neighbours(net, given):
    x, noise, cond = given
    before = net(x, noise, cond)
    row = torch.arange(ROWS) == 2
    other = changed(cond.dropped(NAMES, row), "text", value=torch.where(row[:, None, None], cond.value("text"), 9.0))
    mixed = net(torch.where(row[:, None, None, None], x, 50 * x.flip(0)), torch.where(row, noise, 3.0), other)
    assert torch.equal(mixed[2], before[2])
    alone = net(x[2:3], noise[2:3], cond[2:3])
    assert_close(alone, before[2:3], rtol=1e-4, atol=1e-5)  # another batch size may sum in another order


def test_dropped_row_is_exactly_the_null_row(net, given):
    x, noise, cond = given
    dropped = net(x, noise, cond.dropped(NAMES, torch.tensor([True, False, True, False])))
    kept, null = net(x, noise, cond), net(x, noise, cond.dropped(NAMES))
    assert torch.equal(dropped[1::2], null[1::2])
    assert torch.equal(dropped[0::2], kept[0::2])
    assert_close(net(x, noise, cond.without(*NAMES)), null, rtol=1e-4, atol=1e-5)  # fewer tokens to sum over


@pytest.mark.parametrize("part", ["noise", "aug", "warp", "label", "text"])
def test_each_condition_is_heard(net, given, part):
    x, noise, cond = given
    before = net(x, noise, cond)
    if part == "noise":
        after = net(x, noise + 0.3, cond)
    elif part == "label":
        after = net(x, noise, changed(cond, part, value=(cond.value(part) + 1) % 4))
    elif part == "text":
        after = net(x, noise, changed(cond, part, value=cond.value(part).roll(1, 0)))
    else:
        after = net(x, noise, cond.given(**{part: cond.value(part) + 0.3}))
    assert (after - before).abs().flatten(1).amax(1).min() > 0.01


def test_a_vector_of_zeros_is_none(net, given):
    x, noise, cond = given
    assert torch.equal(net(x, noise, cond.given(warp=torch.zeros(ROWS, 3))), net(x, noise, cond.without("warp")))


def test_masked_tokens_have_no_influence(net, given, generator):
    x, noise, cond = given
    text = cond.parts["text"]
    other = torch.where(text.mask[..., None], text.value, 1e3 * torch.randn(text.value.shape, generator=generator))
    assert torch.equal(net(x, noise, changed(cond, "text", value=other)), net(x, noise, cond))
    shown = changed(cond, "text", value=other, mask=torch.ones_like(text.mask))
    assert not torch.allclose(net(x, noise, shown)[0], net(x, noise, cond)[0], atol=1e-3)


def test_what_it_has_no_port_for_is_not_needed(config, generator):
    torch.manual_seed(0)
    net = wake(config.build(Ports(inputs=3, outputs=3)))
    side = config.multiple * 2
    x = torch.randn(2, 3, side, side, generator=generator)
    assert net(x, torch.zeros(2), Cond.empty(2)).abs().max() > 0


def test_reach_is_as_far_as_it_sees(config, net, given, generator):
    """A pixel that is changed changes nothing further away than `reach`; without a reach it changes the far corner."""
    x, noise, cond = given
    side, at = 64, 32
    x = torch.randn(1, 6, side, side, generator=generator)
    other = x.clone()
    other[..., at, at] += 5
    moved = (net(other, noise[:1], cond[:1]) - net(x, noise[:1], cond[:1])).abs().amax(1)[0]
    if config.attended is not None:
        assert moved[0, 0] > 1e-7
    if config.reach is None:
        return
    rows, cols = torch.nonzero(moved > 0, as_tuple=True)
    assert 0 < max((rows - at).abs().max(), (cols - at).abs().max()) <= config.reach


def test_folding_changes_no_answer(net, given):
    before = net.eval()(*given)
    net.fold()
    net.fold()
    assert_close(net(*given), before, rtol=1e-4, atol=1e-5)


def test_bfloat16_stays_near(net, given):
    exact = net(*given)
    net.compute_dtype = torch.bfloat16
    rough = net(*given)
    assert rough.dtype == torch.float32
    assert rms(rough - exact) / rms(exact) < 0.05
    assert {p.dtype for p in net.parameters()} == {torch.float32}


def test_every_parameter_learns(net, given):
    """With all gains awake each parameter gets a gradient: nothing is connected to nothing."""
    x, noise, cond = given
    kept = torch.tensor([True, True, True, False])
    net(x, noise, cond.dropped(NAMES, kept)).square().mean().backward()
    silent = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert silent == []


def test_checkpointed_blocks_learn_the_same(net, given):
    other = deepcopy(net)
    other.checkpointed = True
    for each in (net, other):
        each(*given).square().mean().backward()
    assert list(net.blocks())
    for (name, one), two in zip(net.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(one.grad, two.grad), name


def test_no_graph_break_when_it_is_traced(net, given):
    """fullgraph raises where tracing would fall back to Python; aot_eager needs no compiler."""
    before = net.eval()(*given)
    net.compile(backend="aot_eager", fullgraph=True)
    assert_close(net(*given), before, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.filterwarnings("ignore")  # torch's compiler warns of its own parts
def test_compiled_answers_the_same(kind, given):
    """By torch's default compiler where there is one for C++; without, by the tracer alone."""
    torch.manual_seed(0)
    config = next(made for made in NETS.values() if made["kind"] == kind)
    net = wake(TypeAdapter(NetConfig).validate_python(config).build(PORTS)).eval()
    with torch.inference_mode():
        before = net(*given)
        net.compile(backend="inductor" if shutil.which("g++") else "aot_eager")
        assert_close(net(*given), before, rtol=1e-4, atol=1e-4)


def test_its_weights_are_its_own_by_name(config, net, given):
    """A state that was saved makes the same network, on a device without data as bundles are loaded, too."""
    with torch.device("meta"):
        other = config.build(PORTS)
    other.load_state_dict(net.state_dict(), assign=True)
    assert torch.equal(other.eval()(*given), net.eval()(*given))


def test_its_text_makes_it_again(config):
    assert TypeAdapter(NetConfig).validate_python(as_values(config)) == config


def test_its_cost_is_counted(config):
    side = 4 * config.multiple
    text = replace_text(text_config(), 5)
    stages = [BaseConfig(resolution=each, net=as_values(config), cond=text) for each in (side, 2 * side)]
    small, large = (cost_of(stage) for stage in stages)
    assert small.parameters == large.parameters == sum(p.numel() for p in stages[0].loaded()(stages[0]).parameters())
    assert 3.5 * small.forward_flops < large.forward_flops + 2 * small.parameters
    assert small.kept_bytes > small.checkpointed_bytes > 0


def replace_text(cond: CondConfig, tokens: int) -> CondConfig:
    assert cond.text is not None
    return cond.model_copy(update={"text": cond.text.model_copy(update={"tokens": tokens})})
