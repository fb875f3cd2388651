"""Runs that start from a bundle: its weights and averages, what does not fit, what is inherited, at ZeRO 2, too."""

import shutil
from pathlib import Path

import pytest
import torch
import yaml
from pydantic import TypeAdapter
from safetensors.torch import load_file
from torch.testing import assert_close

from data.pack.packer import pack
from data.pack.settings import PackSettings
from data.shapes import write_folder
from stages.bundle import read_sidecar
from stages.config import BaseConfig, StageConfig
from stages.training.loop import train
from stages.training.rundir import RunDir
from stages.training.start import licence_of
from tests.stages.tiny import base_config, sr_config
from tests.stages.training.jobs import Job
from tests.stages.training.test_run import assert_equal_runs

pytestmark = pytest.mark.filterwarnings("ignore:::tensorboard")

CARD = "---\nlicense: other\nlicense_name: mit-like\n---\n\n# shapes\n"


@pytest.fixture(scope="module")
def before(shards, runtime, tmp_path_factory) -> Path:
    """A run of a cascade with a model card. Not to be changed."""
    out = tmp_path_factory.mktemp("before")
    train(base_config(), name="base_8", data=shards, out=out / "base_8", runtime=runtime)
    (out / "README.md").write_text(CARD)
    return out / "base_8"


def begun(before: Path, **changed) -> BaseConfig:
    return base_config(init=str(before / "bundle"), **changed)


class TestWeights:
    def test_weights_and_averages_start_from_the_bundle(self, before, shards, runtime, tmp_path):
        """At a rate of almost nothing all that is saved is still what the bundle holds."""
        config = begun(before, lr=1e-12, images=8, warmup=0)
        train(config, name="base_8", data=shards, out=tmp_path / "run", runtime=runtime)
        given = load_file(before / "bundle" / "ema.safetensors")
        checkpoint = RunDir(tmp_path / "run").latest()
        assert checkpoint is not None
        state = load_file(checkpoint / "state.safetensors")
        for weights in (
            load_file(tmp_path / "run" / "bundle" / "ema.safetensors"),
            load_file(checkpoint / "ema-64.safetensors"),
            {name.removeprefix("weights/"): each for name, each in state.items() if name.startswith("weights/")},
        ):
            assert_close(weights, given, rtol=0, atol=1e-6)

    def test_half_precision_on_disk_is_enough(self, before, shards, runtime, tmp_path):
        from stages import export

        export.main(before, tmp_path / "half", half=True)
        config = base_config(init=str(tmp_path / "half"), images=8)
        train(config, name="base_8", data=shards, out=tmp_path / "run", runtime=runtime)
        state = load_file(tmp_path / "run" / "bundle" / "ema.safetensors")
        assert {tensor.dtype for tensor in state.values()} == {torch.float32}

    def test_a_resumed_run_reads_no_bundle(self, before, shards, runtime, tmp_path):
        """Bit for bit an uninterrupted one, though the bundle is gone."""
        bundle = shutil.copytree(before / "bundle", tmp_path / "bundle")
        whole, parts = tmp_path / "whole", tmp_path / "parts"
        config = base_config(init=str(bundle))
        train(config, name="base_8", data=shards, out=whole, runtime=runtime)
        half = config.model_copy(update={"train": config.train.model_copy(update={"images": 24})})
        train(half, name="base_8", data=shards, out=parts, runtime=runtime)
        shutil.rmtree(bundle)
        train(config, name="base_8", data=shards, out=parts, runtime=runtime)
        assert_equal_runs(whole, parts)
        assert read_sidecar(whole / "bundle").provenance == read_sidecar(parts / "bundle").provenance


class TestInheritance:
    def test_origin_and_licence_go_on(self, before, shards, runtime, tmp_path, capsys):
        """Over two generations, the nearest first; told before the first update."""
        for name, source in (("child", before), ("grandchild", tmp_path / "child")):
            config = base_config(init=str(source / "bundle"), images=8)
            train(config, name="base_8", data=shards, out=tmp_path / name, runtime=runtime)
        assert "(48 images, licence: mit-like); its terms hold for what is trained from it" in capsys.readouterr().err
        first, second = read_sidecar(tmp_path / "grandchild" / "bundle").provenance.ancestors
        assert (first.nimg, first.licence, second.nimg, second.licence) == (8, None, 48, "mit-like")
        assert second.sha256 == read_sidecar(before / "bundle").sha256

    def test_other_statistics_are_told_not_refused(self, before, shards, runtime, tmp_path, capsys):
        config = begun(before, images=8)
        config = config.model_copy(update={"noise": config.noise.model_copy(update={"sigma_data": 0.7})})
        train(config, name="base_8", data=shards, out=tmp_path / "run", runtime=runtime)
        assert "noise.sigma_data was 0.6 in" in capsys.readouterr().err

    def test_a_lost_record_is_no_reason_to_forget(self, before, shards, runtime, tmp_path):
        train(begun(before, images=24), name="base_8", data=shards, out=tmp_path / "run", runtime=runtime)
        (tmp_path / "run" / "init.json").unlink()
        with pytest.raises(ValueError, match=r"init\.json: missing; restore it"):
            train(begun(before), name="base_8", data=shards, out=tmp_path / "run", runtime=runtime)

    @pytest.mark.parametrize("text", ["no head", "---\nlanguage: en\n---\n", ""])
    def test_no_licence_is_invented(self, before, tmp_path, text):
        bundle = shutil.copytree(before / "bundle", tmp_path / "bundle")
        (tmp_path / "README.md").write_text(text)
        assert licence_of(bundle) is None


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (base_config(net={"widths": (16, 24)}), "net.widths is [16, 32] there, [16, 24] here"),
        (base_config(net={"self_attention": (1,)}), "net.self_attention is [] there, [1] here"),
        (
            TypeAdapter(StageConfig).validate_python(base_config().model_dump() | {"parametrisation": {"kind": "v"}}),
            "parametrisation.kind is edm there, v here",
        ),
        (sr_config(), "kind is base there, super_res here"),
        (base_config(classes=0), "cond.num_classes is 6 there, 0 here"),
        (
            base_config(augment={"probability": 0.5}),
            "weight net.embedding.warp.weight has shape None there, (32, 3) here",
        ),
    ],
)
def test_what_does_not_fit_is_refused_by_name(before, shards, runtime, tmp_path, config, message):
    train_config = config.train.model_copy(update={"init": str(before / "bundle")})
    config = config.model_copy(update={"train": train_config})
    with pytest.raises(ValueError, match=r"train\.init") as caught:
        train(config, name="base_8", data=shards, out=tmp_path / "run", runtime=runtime)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_other_channels_are_refused(before, runtime, tmp_path):
    pack(
        write_folder(tmp_path / "pictures", 48, 16),
        tmp_path / "shards",
        PackSettings(size=16, shards=8, alpha=True),
        workers=0,
    )
    config = base_config(init=str(before / "bundle")).model_copy(update={"channels": 4})
    with pytest.raises(ValueError, match="channels is 3 there, 4 here"):
        train(config, name="base_8", data=str(tmp_path / "shards"), out=tmp_path / "run", runtime=runtime)


@pytest.mark.parametrize("spoil", ["nothing there", "cut"])
def test_a_bundle_that_is_none_is_refused(before, shards, runtime, tmp_path, spoil):
    bundle = tmp_path / "bundle"
    if spoil == "cut":
        shutil.copytree(before / "bundle", bundle)
        weights = (bundle / "ema.safetensors").read_bytes()
        (bundle / "ema.safetensors").write_bytes(weights[:-8] + bytes(8))
    config = base_config(init=str(bundle))
    with pytest.raises(ValueError, match=r"no stage\.json there|sha256 is not the one"):
        train(config, name="base_8", data=shards, out=tmp_path / "run", runtime=runtime)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_at_zero_2(before, shards, runtime, tmp_path):
    """Two ranks at ZeRO 2 train from the bundle what one local process trains, and resume without it."""
    bundle = shutil.copytree(before / "bundle", tmp_path / "bundle")
    path = tmp_path / "tiny.yaml"
    stage = base_config().model_dump(mode="json")
    path.write_text(yaml.safe_dump({"name": "tiny", "stages": {"base_8": stage}}))
    job = Job(path, shards, tmp_path / "out")
    options = ("--init", str(bundle), "--zero", "2")
    done = job.train(*options, "--images", "24", world=2)
    assert done.returncode == 0, done.stderr
    shutil.rmtree(bundle)
    done = job.train(*options, world=2)
    assert done.returncode == 0, done.stderr
    shutil.copytree(before / "bundle", bundle)
    config = base_config(init=str(bundle))
    train(config, name="base_8", data=shards, out=tmp_path / "local", runtime=runtime)
    ours, theirs = (load_file(each / "bundle" / "ema.safetensors") for each in (job.run, tmp_path / "local"))
    assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert read_sidecar(job.run / "bundle").provenance.ancestors[0].licence is None
