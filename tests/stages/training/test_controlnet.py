"""A control net: begins as its frozen bundle, trains the copy alone, is followed by samples, resumes exactly, and says in one
line what does not fit."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from data.batch import Batch, Cond
from data.files import file_sha256
from data.pack.packer import pack
from data.pack.settings import PackSettings
from data.shapes import write_folder
from stages import export
from stages.build import build_stage
from stages.bundle import BASE, WEIGHTS, load_bundle, read_sidecar, save_bundle
from stages.conditions.likely import likely_cond
from stages.config import BaseConfig
from stages.frozen import Frozen
from stages.nets.controlnet import Join
from stages.sampling import conditioned, noise_of, sample_alone
from stages.stage import Stage
from stages.training.controlled import beside
from stages.training.loop import train
from tests.gray_maps import write_maps
from tests.stages.controlled import TOLD, base_bundle, controlled, controlled_config, mapped_batch
from tests.stages.tiny import base_config, wake
from tests.stages.training.test_run import assert_equal_runs

ROOT = Path(__file__).parents[3]
SIDE = 8
pytestmark = pytest.mark.filterwarnings("ignore:::tensorboard")

NETS = {
    "plain": {},
    "attending": {"self_attention": (1,), "patch": 2},
    "efficient": {"blocks": (0, 2), "decoder_blocks": (2, 1), "skip": "concat", "resample_filter": "smooth"},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return base_bundle(tmp_path_factory.mktemp("base") / "bundle")


@pytest.fixture(scope="module")
def mapped_shards(tmp_path_factory) -> Path:
    """Shapes with their gray versions as maps."""
    folder = tmp_path_factory.mktemp("mapped")
    pictures = write_folder(folder / "pictures", 48, 16)
    settings = PackSettings(size=16, shards=8, maps=str(write_maps(folder / "maps", pictures)), val=0.2)
    pack(pictures, folder / "shards", settings, workers=0)
    return folder / "shards"


@pytest.fixture(scope="module")
def finished(base, mapped_shards, runtime, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("controlled") / "run"
    train(controlled_config(base), name="base_8", data=mapped_shards, out=out, runtime=runtime)
    return out


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> tuple[Stage, Stage]:
    """A frozen stage that has learned shapes by their kinds, and a control net after 100 updates beside it."""
    folder = tmp_path_factory.mktemp("followed") / "bundle"
    torch.manual_seed(0)
    stage = learned(build_stage(base_config()), updates=200, lr=0.03)
    save_bundle(folder, stage.state_dict(), config=stage.config, text_encoder=None, provenance=TOLD)
    return load_bundle(folder), learned(controlled(controlled_config(folder)), updates=100, lr=0.1)


def asked(num: int = 4) -> tuple[torch.Tensor, torch.Tensor, Cond]:
    """x, sigma, and a cond with classes and maps."""
    generator = torch.Generator().manual_seed(3)
    x, maps = (torch.randn(num, channels, SIDE, SIDE, generator=generator) for channels in (3, 1))
    cond = Cond.of(torch.ones(num, dtype=torch.bool), label=torch.arange(num)).given(maps=maps)
    return x, torch.linspace(0.1, 3, num), cond


def answer(stage: Stage, cond: Cond | None = None) -> torch.Tensor:
    x, sigma, own = asked()
    with torch.no_grad():
        return stage.eval().denoise(x, sigma, cond or own).x0_hat


@pytest.mark.parametrize("net", NETS)
def test_it_begins_as_the_frozen_bundle(net, tmp_path):
    """Bit for bit; and the copy sees what the frozen encoder sees."""
    base = base_bundle(tmp_path / "bundle", **NETS[net])
    stage, frozen = controlled(controlled_config(base)), load_bundle(base)
    assert torch.equal(answer(stage), answer(frozen))
    x, noise, cond = asked()
    with torch.no_grad():
        own = stage.net.encode(torch.cat([x, x[:, :2]], dim=1), noise, cond)
        theirs = frozen.net.encode(x, noise, cond)
    assert_close(own.x, theirs.x, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("net", NETS)
def test_without_a_map_or_at_scale_0_it_is_the_frozen_bundle_for_ever(net, tmp_path):
    base = base_bundle(tmp_path / "bundle", **NETS[net])
    stage, plain = wake(controlled(controlled_config(base))), answer(load_bundle(base))
    *_, cond = asked()
    whole = answer(stage)
    assert (whole - plain).abs().flatten(1).amax(1).min() > 1e-3
    assert torch.equal(answer(stage, cond.without("maps")), plain)
    keep = torch.tensor([True, False, True, False])
    half = answer(stage, cond.dropped(("maps",), keep))
    assert torch.equal(half[~keep], plain[~keep])
    assert torch.equal(half[keep], whole[keep])
    scaled = answer(stage, cond.given(control=torch.tensor([0.0, 1.0, 0.0, 0.5])))
    assert torch.equal(scaled[[0, 2]], plain[[0, 2]])
    assert torch.equal(scaled[1], whole[1])
    assert not torch.allclose(scaled[3], whole[3], atol=1e-4)
    assert not torch.allclose(scaled[3], plain[3], atol=1e-4)


def test_at_scale_0_not_even_a_copy_that_overflows_is_heard(tmp_path):
    """As in fp16, where infinity times 0 would be NaN."""
    base = base_bundle(tmp_path / "bundle")
    stage, plain = wake(controlled(controlled_config(base))), answer(load_bundle(base))
    joins = [*stage.net.joins.modules(), *stage.net.join_middle.modules()]
    with torch.no_grad():
        for join in (module for module in joins if isinstance(module, Join)):
            join.gain.fill_(torch.inf)
    *_, cond = asked()
    heard = answer(stage, cond.given(control=torch.tensor([0.0, 1.0, 0.0, 1.0])))
    assert not heard[[1, 3]].isfinite().all()
    assert torch.equal(heard[[0, 2]], plain[[0, 2]])


def test_what_is_compiled_and_measured_has_the_parts_of_a_request(base):
    """Else every call of a request would be of another shape, which a GPU runs uncompiled."""
    stage, batch = controlled(controlled_config(base)), mapped_batch(4)
    noise = noise_of("s", 0, torch.arange(4), "cpu")
    cond = conditioned(stage, batch.cond, None, stage.config.sample, noise)
    assert likely_cond(stage.config, torch.randn(4, 3, SIDE, SIDE)).make == cond.make


@pytest.mark.parametrize("net", NETS)
def test_every_weight_of_the_copy_learns_and_no_other(net, tmp_path):
    base = base_bundle(tmp_path / "bundle", **NETS[net])
    stage = wake(controlled(controlled_config(base)))
    stage(mapped_batch(8), seed=0).loss.backward()
    silent = [name for name, p in stage.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert silent == []
    assert not any(name.startswith(("net.decoder", "net.conv_out")) for name in stage.state_dict())
    frozen = stage.net.base("cpu")
    assert all(p.grad is None and not p.requires_grad for p in frozen.parameters())
    assert not any(module is frozen for module in stage.modules())


class TestSamples:
    """Show what the maps show."""

    def test_follow_the_map_and_not_the_kind_s_mean(self, pair):
        frozen, stage = pair
        batch = mapped_batch(32, start=100_000)
        own = batch.cond.parts["maps"].value
        before, half, whole = (likeness(sampled(stage, batch, control_scale=k), own).item() for k in (0.0, 0.5, 1.0))
        assert likeness(sampled(frozen, batch), own).item() == before
        assert before + 0.1 < half < whole - 0.03
        assert whole > before + 0.2

    def test_follow_another_s_map_rather_than_their_own(self, pair):
        _, stage = pair
        batch = mapped_batch(32, start=100_000)
        own = batch.cond.parts["maps"].value
        other = own.roll(1, 0)
        pictures = sampled(stage, replace(batch, cond=batch.cond.given(maps=other)))
        assert likeness(pictures, other).item() > likeness(pictures, own).item() + 0.2


def learned(stage: Stage, *, updates: int, lr: float, num: int = 16) -> Stage:
    """After so many updates on new shapes, at a rate that falls to 0."""
    optimizer = torch.optim.Adam(stage.train().parameters(), lr=lr, betas=(0.9, 0.99))
    for k in range(updates):
        optimizer.param_groups[0]["lr"] = lr * (1 - k / updates)
        optimizer.zero_grad()
        stage(mapped_batch(num, start=k * num), seed=0).loss.backward()
        optimizer.step()
    return stage.eval()


def sampled(stage: Stage, batch: Batch, **settings: float) -> torch.Tensor:
    noise, sample = noise_of("s", 0, torch.arange(len(batch)), "cpu"), stage.config.sample
    sample = sample.model_copy(update={"num_steps": 8, **settings})
    cond = batch.cond if stage.config.controlnet else batch.cond.without("maps")
    cond = conditioned(stage, cond, None, sample, noise)
    return sample_alone(stage, sample, cond, noise, (len(batch), 3, SIDE, SIDE))


def likeness(pictures: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
    """Mean correlation of gray pictures with their maps."""
    pairs = (each - each.mean((1, 2, 3), keepdim=True) for each in (pictures.mean(1, keepdim=True), maps.float()))
    return torch.cosine_similarity(*(each.flatten(1) for each in pairs)).mean()


class TestAWholeRun:
    def test_the_bundle_holds_the_copy_and_beside_it_the_frozen_files(self, base, finished):
        bundle, sidecar = finished / "bundle", read_sidecar(finished / "bundle")
        assert {path.name for path in bundle.iterdir()} == {"stage.json", WEIGHTS, BASE}
        for name in ("stage.json", WEIGHTS):
            assert file_sha256(bundle / BASE / name) == file_sha256(base / name)
        assert sidecar.config.controlnet.sha256 == read_sidecar(base).sha256
        assert json.loads((bundle / "stage.json").read_text())["config"]["controlnet"]["base"] == BASE
        assert load_file(bundle / WEIGHTS).keys() == controlled(controlled_config(base)).state_dict().keys()
        assert sidecar.provenance.ancestors[0].sha256 == read_sidecar(base).sha256

    def test_it_has_learned_and_needs_nothing_but_its_folder(self, base, finished, tmp_path):
        shutil.copytree(finished / "bundle", tmp_path / "moved")
        stage, frozen = load_bundle(tmp_path / "moved"), load_bundle(base)
        *_, cond = asked()
        assert (answer(stage) - answer(frozen)).abs().max() > 1e-4
        assert torch.equal(answer(stage, cond.without("maps")), answer(frozen))

    def test_resumed_it_ends_in_the_same_bits(self, base, mapped_shards, runtime, finished, tmp_path):
        for images in (24, 48):
            Frozen.loaded.clear()  # a new process has not loaded the base yet
            config = controlled_config(base, images=images)
            train(config, name="base_8", data=mapped_shards, out=tmp_path / "run", runtime=runtime)
        assert_equal_runs(tmp_path / "run", finished)

    def test_a_strength_at_sampling(self, base, finished):
        stage, frozen = load_bundle(finished / "bundle"), load_bundle(base)
        batch = mapped_batch(4)
        plain = sampled(frozen, batch)
        assert torch.equal(sampled(stage, batch, control_scale=0.0), plain)
        assert not torch.equal(sampled(stage, batch), plain)

    def test_exported_it_is_whole(self, finished, tmp_path):
        export.main(finished, tmp_path / "out")
        assert torch.equal(answer(load_bundle(tmp_path / "out")), answer(load_bundle(finished / "bundle")))


class TestRefused:
    @pytest.mark.parametrize(
        ("changed", "told"),
        [
            ({"net": {"kind": "dit", "width": 64, "depth": 1}}, "controlnet: net.kind dit has no encoder to copy"),
            ({"cond": {"num_classes": 6}}, "controlnet: there is nothing to follow; give cond.maps"),
        ],
    )
    def test_by_the_config(self, base, changed, told):
        with pytest.raises(ValueError, match=told):
            BaseConfig.model_validate(controlled_config(base).model_dump() | changed)

    def test_a_base_of_another_network_or_none(self, base, tmp_path):
        config = controlled_config(base)
        for update, told in (
            ({"noise": config.noise.model_copy(update={"sigma_data": 0.7})}, "noise.sigma_data is 0.6 there, 0.7 here"),
            ({"net": config.net.model_copy(update={"blocks": (1, 2)})}, r"net.blocks is \[1, 1\] there, \[1, 2\] here"),
            ({"controlnet": {"base": str(tmp_path)}}, "no stage.json there"),
            ({"controlnet": {"base": str(base), "sha256": "0" * 64}}, r"controlnet.sha256 is 000000000000\.\.\."),
        ):
            with pytest.raises(ValueError, match=told) as caught:
                beside(BaseConfig.model_validate(config.model_dump() | update))
            assert "\n" not in str(caught.value)

    def test_a_base_with_maps_of_its_own(self, finished):
        with pytest.raises(ValueError, match="it has controlnet itself; name a bundle without"):
            beside(controlled_config(finished / "bundle"))

    def test_another_base_at_a_resume(self, base, mapped_shards, runtime, finished, tmp_path):
        """Elsewhere it is the same one; with other weights it is not."""
        config = base_config()
        torch.manual_seed(5)
        weights = wake(build_stage(config)).state_dict()
        save_bundle(tmp_path / "other", weights, config=config, text_encoder=None, provenance=TOLD)
        with pytest.raises(ValueError, match=r"controlnet.sha256 was '[0-9a-f]{64}', is"):
            train(
                controlled_config(tmp_path / "other"), name="base_8", data=mapped_shards, out=finished, runtime=runtime
            )

    def test_a_bundle_whose_base_is_gone_or_another(self, base, finished, tmp_path):
        shutil.copytree(finished / "bundle", tmp_path / "lost")
        shutil.rmtree(tmp_path / "lost" / BASE)
        with pytest.raises(ValueError, match=r"base: no stage\.json there"):
            load_bundle(tmp_path / "lost")
        shutil.copytree(finished / "bundle", tmp_path / "cut")
        weights = (tmp_path / "cut" / BASE / WEIGHTS).read_bytes()
        (tmp_path / "cut" / BASE / WEIGHTS).write_bytes(weights[:-4] + bytes(4))
        with pytest.raises(ValueError, match="its sha256 is not the one in stage"):
            load_bundle(tmp_path / "cut")


@pytest.mark.slow
@pytest.mark.matrix
@pytest.mark.timeout(600)
def test_deepspeed_does_what_the_local_engine_does(tmp_path):
    """At ZeRO 0 to 3: the updates of one process, and what it saves and averages, the copy alone; the base's file stays."""
    command = [sys.executable, "-m", "tests.stages.training.controlnet_worker", str(tmp_path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=580, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert file_sha256(tmp_path / "base" / WEIGHTS) == read_sidecar(tmp_path / "base").sha256
    report = json.loads((tmp_path / "report.json").read_text())
    local = report.pop("local")
    names = controlled(controlled_config(tmp_path / "base")).state_dict().keys()
    assert len(report) == 4
    for name, losses in report.items():
        assert losses == pytest.approx(local, rel=1e-4)
        for what in ("weights", "average"):
            theirs, own = (load_file(tmp_path / each / f"{what}.safetensors") for each in (name, "local"))
            assert theirs.keys() == own.keys() == names
            assert_close(theirs, own, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_compiled_it_answers_and_learns_the_same(base):
    """The frozen network is fetched outside of what is traced; aot_eager needs no compiler."""
    stages = [wake(controlled(controlled_config(base))) for _ in range(2)]
    stages[1].net.compile(backend="aot_eager", dynamic=False)
    losses = [stage(mapped_batch(4), seed=0).loss for stage in stages]
    assert_close(losses[1], losses[0], rtol=1e-5, atol=1e-6)
    for loss in losses:
        loss.backward()
    for (name, one), two in zip(stages[0].named_parameters(), stages[1].parameters(), strict=True):
        assert_close(two.grad, one.grad, rtol=1e-3, atol=1e-5, msg=name)
