"""A second network in the registry: texts that name none go on to mean a U-Net, and it is trained, bundled and sampled like one."""

import sys
from pathlib import Path
from typing import ClassVar, Literal

import pytest
import torch
import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor, nn

from cascade.config import PRESETS
from cascade.config import load_config as load_today
from data.errors import TAGS
from stages.nets.blocks import BRANCH_GAIN, MAIN_GAIN, SILU_GAIN, Attention, MPWeight, fold_weights, unit_norm
from stages.nets.config import NetworkConfig
from stages.nets.embed import Embedding
from stages.nets.ports import Ports
from stages.nets.registry import NETWORKS
from stages.nets.unet import UNet
from stages.texts import as_values
from tests.stages.tiny import shapes_batch, wake

pytestmark = pytest.mark.filterwarnings("ignore:::tensorboard")
PACKAGES, KEPT = (
    ("stages", "cascade"),
    ("stages.nets", "stages.strict", "stages.texts"),
)  # imported anew; but for what knows no registry


class MixerConfig(NetworkConfig):
    implementation: ClassVar[str] = f"{__name__}:Mixer"
    kind: Literal["mixer"] = "mixer"
    width: PositiveInt = 16
    depth: PositiveInt = 1
    patch: PositiveInt = 2

    @property
    def multiple(self) -> int:
        return self.patch

    @property
    def multiple_rule(self) -> str:
        return "patch"

    @property
    def reach(self) -> None:
        return None

    @property
    def attended(self) -> int:
        return self.patch


class Layer(nn.Module):
    """Attention between patches, then a convolution."""

    def __init__(self, width: int):
        super().__init__()
        self.attention = Attention(width, head_dim=width)
        self.emb = MPWeight(width, width)
        self.emb_gain = nn.Parameter(torch.zeros(1))
        self.conv = MPWeight(width, width, 3)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        x = self.attention(unit_norm(x, dim=1))
        scale = self.emb(emb, gain=self.emb_gain) + 1
        y = self.conv(F.silu(x) * scale[:, :, None, None], gain=SILU_GAIN * BRANCH_GAIN)
        return torch.add(y, x, alpha=MAIN_GAIN)


class Mixer(nn.Module):
    """All on one level."""

    def __init__(self, config: MixerConfig, ports: Ports):
        super().__init__()
        self.patch, area = config.patch, config.patch**2
        self.compute_dtype, self.checkpointed = torch.float32, False
        self.embedding = Embedding(config.width, ports)
        self.conv_in = MPWeight(ports.inputs * area, config.width, 1)
        self.layers = nn.ModuleList(Layer(config.width) for _ in range(config.depth))
        self.conv_out = MPWeight(config.width, ports.outputs * area, 1)
        self.out_gain = nn.Parameter(torch.zeros(1))

    def forward(self, x, noise, cond):
        emb = self.embedding(noise, cond).to(self.compute_dtype)
        x = self.conv_in(F.pixel_unshuffle(x.to(self.compute_dtype), self.patch))
        for layer in self.layers:
            x = layer(x, emb)
        return F.pixel_shuffle(self.conv_out(x, gain=self.out_gain).float(), self.patch)

    def blocks(self):
        return iter(self.layers)

    def fold(self):
        fold_weights(self)


def clear() -> None:
    for name in list(sys.modules):
        if name.split(".")[0] in PACKAGES and not name.startswith(KEPT):
            del sys.modules[name]


@pytest.fixture(scope="module", autouse=True)
def _second():
    """Both packages as a process imports them in which the registry has one line more; afterwards those of before are back."""
    modules, tags = dict(sys.modules), set(TAGS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(NETWORKS, "mixer", MixerConfig)
        clear()
        yield
    clear()
    sys.modules.update({name: module for name, module in modules.items() if name.split(".")[0] in PACKAGES})
    TAGS.intersection_update(tags)


TRAIN = (
    "{images: 16, batch: 8, warmup: 8, lr: 0.1, schedule: constant, ema: [8], precision: fp32, compile: false, workers: 0, "
    "log_every: 8, save_every: 16, val_images: 0}"
)
TWO = f"""
name: two
stages:
  base_8:
    kind: base
    resolution: 8
    net: {{kind: mixer, depth: 2}}
    cond: {{num_classes: 6}}
    train: {TRAIN}
    sample: {{num_steps: 2}}
  sr_16:
    kind: super_res
    low_res: 8
    resolution: 16
    crop: 8
    net: {{widths: [8, 16], blocks: [1, 1], emb_dim: 16}}
    cond: {{num_classes: 6}}
    train: {TRAIN}
    sample: {{num_steps: 2, sigma_max: 5}}
"""


@pytest.mark.parametrize("name", sorted(path.stem for path in PRESETS.glob("*.yaml")))
def test_a_preset_means_what_it_meant(name):
    from cascade.config import CascadeConfig, load_config

    found = load_config(name)
    assert as_values(found) == as_values(load_today(name))
    assert CascadeConfig.model_validate(as_values(found), strict=False) == found


@pytest.fixture(scope="module")
def trained(shards, tmp_path_factory) -> Path:
    """A Mixer and above it a U-Net, two updates each."""
    from cascade.config import load_config
    from cascade.manifest import write_manifest
    from stages.training.loop import train
    from stages.training.runtime import Runtime

    out = tmp_path_factory.mktemp("two")
    (out / "two.yaml").write_text(TWO)
    config = load_config(str(out / "two.yaml"))
    runtime = Runtime(engine="local", rank=0, world=1, device=torch.device("cpu"))
    for name, stage in config.stages.items():
        train(stage, name=name, data=shards, out=out / name, runtime=runtime)
    write_manifest(config, out)
    return out


def test_it_is_trained_and_bundled(trained):
    from stages.bundle import load_bundle, read_sidecar

    for name, kind, network in (("base_8", "mixer", Mixer), ("sr_16", "unet", UNet)):
        assert as_values(read_sidecar(trained / name / "bundle").config)["net"]["kind"] == kind
        net = load_bundle(trained / name / "bundle").net
        assert type(net) is network
        assert net.out_gain.item() != 0


def test_a_chain_of_two_networks_is_sampled(trained):
    from cascade import Cascade, Request
    from cascade.events import StageFinished

    events = list(Cascade.load(trained).sample(Request(labels=(0, 3), seed=1)))
    sizes = [tuple(event.images.shape) for event in events if isinstance(event, StageFinished)]
    assert sizes == [(2, 3, 8, 8), (2, 3, 16, 16)]


def test_its_blocks_are_what_magnitudes_are_of(trained):
    from stages.build import build_stage
    from stages.bundle import read_sidecar
    from stages.training.norms import activation_norms

    stage = wake(build_stage(read_sidecar(trained / "base_8" / "bundle").config))
    found = activation_norms(stage, shapes_batch(8, 8))
    layers = ("net.layers.0.attention", "net.layers.0", "net.layers.1.attention", "net.layers.1")
    assert set(found) == {f"activation_rms/{name}" for name in (*layers, "net")}
    assert all(0.5 < size < 2 for size in found.values()), found


def test_its_cost_is_counted():
    from cascade.config import load_config
    from stages.tools.cost import cost_of

    plain = load_config("emoji").stages["base_16"]
    once, twice = (cost_of(plain.model_copy(update={"net": MixerConfig(depth=depth)})) for depth in (1, 2))
    assert twice.forward_flops > once.forward_flops > 0
    assert twice.kept_bytes > twice.checkpointed_bytes


NET, BASE = {"kind": "mixer"}, {"kind": "base", "resolution": 16}
SR = {"kind": "super_res", "low_res": 8, "resolution": 16}


@pytest.mark.parametrize(
    ("stage", "told"),
    [
        (BASE | {"resolution": 15, "net": NET}, r"stages\.one: resolution 15 is no multiple of 2 = patch$"),
        (SR | {"crop": 8, "net": NET}, r"stages\.one: net\.kind mixer with crop > 0: attention over a crop is not"),
        (BASE | {"net": {"kind": "mixr"}}, r"stages\.one\.net: Input tag 'mixr' .* 'unet', .*'mixer'"),
        (
            BASE | {"net": NET | {"widths": [8]}},
            r"stages\.one\.net\.widths: Extra .*; kind: mixer has no widths; leave it out, in the YAML where an override",
        ),
        (BASE | {"net": NET | {"widht": 8}}, r"stages\.one\.net\.widht: Extra .*; did you mean width\?"),
        (BASE | {"net": NET, "patch": 2}, r"stages\.one\.patch: Extra .*; write it as stages\.one\.net\.patch$"),
        (BASE | {"net": NET, "crop": 8}, r"stages\.one\.crop: Extra .*; only super_res stages have crop$"),
        (BASE | {"net": NET | {"network": "os:abort"}}, r"stages\.one\.net\.network: Extra inputs"),
        (BASE | {"net": {"widths": [8], "blocks": [1, 1]}}, r"stages\.one\.net: blocks has 2 levels, widths has 1;"),
        (BASE | {"net": 3}, r"stages\.one\.net: .*\(got '3'\)$"),
    ],
)
def test_a_mistake_is_told_by_the_network_that_it_is_about(stage, told):
    from cascade.config import parse_config

    with pytest.raises(ValueError, match=told) as caught:
        parse_config({"name": "mine", "stages": {"one": stage}}, "mine.yaml")
    assert "\n" not in str(caught.value)


def test_an_override_that_changes_the_kind_alone_is_told_what_to_do():
    from cascade.config import load_config

    with pytest.raises(ValueError, match=r"stages\.base_16\.net\.\w+: .*kind: mixer has no \w+; leave it out"):
        load_config("emoji", ["stages.base_16.net.kind=mixer"])


def test_a_config_that_leaves_something_out_cannot_be_made():
    class Unfinished(NetworkConfig):
        kind: Literal["unfinished"] = "unfinished"

    with pytest.raises(TypeError, match="abstract"):
        Unfinished()
