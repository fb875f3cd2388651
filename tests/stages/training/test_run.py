"""Whole runs: from shards to a bundle, through kills, NaNs and changed minds."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch.testing import assert_close

from cascade.config import load_config, stage_of
from data.batch import Cond
from stages.bundle import load_bundle, read_sidecar
from stages.config import StageConfig
from stages.kinds.base import BaseStage
from stages.nets.blocks import Block
from stages.training.checkpoints import nimg_of
from stages.training.checks import micro_batch
from stages.training.loop import train
from stages.training.rundir import RunDir
from stages.training.saving import Saver
from tests.stages.tiny import base_config, sr_config

ROOT = Path(__file__).parents[3]
KEPT = ("loss", "grad_norm", "lr")  # of a line of metrics; the rest is time and memory

pytestmark = pytest.mark.filterwarnings("ignore:::tensorboard")


def loss_curve(run: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: line[key] for key in ("nimg", *KEPT)} for line in lines]


def assert_equal_runs(one: Path, other: Path) -> None:
    """Loss curves, bundle, weights, moments and averages, bit for bit."""
    assert loss_curve(one) == loss_curve(other)
    assert_close(
        load_file(one / "bundle" / "ema.safetensors"), load_file(other / "bundle" / "ema.safetensors"), rtol=0, atol=0
    )
    latest = [RunDir(path).latest() for path in (one, other)]
    states = [load_file(folder / "state.safetensors") for folder in latest]
    assert_close(states[0], states[1], rtol=0, atol=0)
    for name in ("ema-16.safetensors", "ema-64.safetensors"):
        assert (latest[0] / name).read_bytes() == (latest[1] / name).read_bytes()


@pytest.fixture(scope="module")
def finished(shards, runtime, tmp_path_factory) -> Path:
    """Six updates of the base stage, uninterrupted, saved at 24 and 48 images."""
    out = tmp_path_factory.mktemp("finished") / "base_8"
    train(base_config(), name="base_8", data=shards, out=out, runtime=runtime)
    return out


class TestFinished:
    def test_what_lies_there(self, finished):
        assert {path.name for path in finished.iterdir()} == {
            "bundle", "checkpoints", "config.json", "environment.json", "metrics.jsonl", "run.lock", "samples",
            "tensorboard",
        }  # fmt: skip
        assert [nimg_of(path) for path in sorted((finished / "checkpoints").iterdir())] == [24, 48]

    def test_nothing_is_left_half_written(self, finished):
        left = [path for path in finished.rglob("*") if path.suffix in (".tmp", ".part", ".new", ".old")]
        assert left == []

    def test_a_line_of_metrics_an_update(self, finished):
        lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
        assert [line["nimg"] for line in lines] == [8, 16, 24, 32, 40, 48]
        assert [line["lr"] for line in lines] == [0.0] + [0.03] * 5
        assert all(line["img_per_s"] > 0 and 0 <= line["wait"] <= 1 and line["memory_mb"] > 0 for line in lines)

    def test_a_grid_at_the_end(self, finished):
        assert [path.name for path in (finished / "samples").iterdir()] == ["nimg-0000000048.png"]

    def test_the_bundle_is_the_first_average_of_the_last_checkpoint(self, finished):
        sidecar = read_sidecar(finished / "bundle")
        assert (sidecar.provenance.nimg, sidecar.provenance.ema) == (48, 16)
        assert len(sidecar.provenance.classes) == 6
        average = load_file(RunDir(finished).latest() / "ema-16.safetensors")
        assert_close(load_file(finished / "bundle" / "ema.safetensors"), average, rtol=0, atol=0)
        x0_hat = load_bundle(finished / "bundle").denoise(torch.randn(1, 3, 8, 8), torch.ones(1), Cond.empty(1)).x0_hat
        assert x0_hat.isfinite().all()


class TestResume:
    @pytest.fixture
    def cascade(self, tmp_path) -> Path:
        stages = {"base_8": base_config(), "sr_16": sr_config()}
        text = {"name": "tiny", "stages": {name: config.model_dump(mode="json") for name, config in stages.items()}}
        (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(text, sort_keys=False))
        return tmp_path / "tiny.yaml"

    @pytest.mark.slow
    @pytest.mark.timeout(600)
    def test_a_kill_in_a_save_and_a_resume_equal_an_undisturbed_run(self, cascade, shards, runtime, finished, tmp_path):
        """train.py dies in its second save, when the files are written and not yet renamed; this process goes on."""
        kill = (
            "from stages.training.rundir import RunDir; commit = RunDir.commit; "
            "RunDir.commit = lambda run, draft, nimg, *more: os._exit(9) if nimg == 48 else commit(run, draft, nimg, *more)"
        )
        out = tmp_path / "out"
        arguments = ["train.py", str(cascade), "base_8", "--data", str(shards), "--out", str(out), "--engine", "local"]
        code = f"import os, runpy, sys; sys.argv = {arguments}; {kill}; runpy.run_path('train.py', run_name='__main__')"
        environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        killed = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=580
        )
        assert killed.returncode == 9, killed.stderr
        run = out / "base_8"
        assert nimg_of(RunDir(run).latest()) == read_sidecar(run / "bundle").provenance.nimg == 24
        assert len(loss_curve(run)) >= 5  # of which two or three never were saved

        train(stage_of(load_config(str(cascade)), "base_8"), name="base_8", data=shards, out=run, runtime=runtime)
        assert_equal_runs(run, finished)
        assert not list(out.rglob("*.tmp"))

    def test_stopped_at_three_and_asked_for_six(self, shards, runtime, finished, tmp_path):
        for images in (24, 48):
            train(base_config(images=images), name="base_8", data=shards, out=tmp_path / "run", runtime=runtime)
        assert_equal_runs(tmp_path / "run", finished)

    def test_the_same_whatever_the_micro_batch(self, shards, runtime, finished, tmp_path):
        """1e-3 of the loss: other sums, in float32, through six updates."""
        train(base_config(micro_batch=2), name="base_8", data=shards, out=tmp_path / "run", runtime=runtime)
        for line, expected in zip(loss_curve(tmp_path / "run"), loss_curve(finished), strict=True):
            assert line == pytest.approx(expected, rel=1e-3)

    def test_at_the_end_there_is_nothing_to_do(self, shards, runtime, finished, capsys):
        before = (finished / "bundle" / "ema.safetensors").stat().st_mtime_ns
        train(base_config(), name="base_8", data=shards, out=finished, runtime=runtime)
        assert "nothing to do, 48 of 48 images are done" in capsys.readouterr().out
        assert (finished / "bundle" / "ema.safetensors").stat().st_mtime_ns == before

    def test_a_damaged_checkpoint_costs_its_updates_only(self, shards, runtime, finished, tmp_path):
        config = base_config()
        train(config, name="base_8", data=shards, out=tmp_path / "run", runtime=runtime)
        newest = RunDir(tmp_path / "run").latest()
        (newest / "state.safetensors").write_bytes((newest / "state.safetensors").read_bytes()[:-9])
        train(config, name="base_8", data=shards, out=tmp_path / "run", runtime=runtime)
        assert_equal_runs(tmp_path / "run", finished)

    def test_another_config_is_refused(self, shards, runtime, finished):
        before = sorted(path for path in finished.rglob("*"))
        with pytest.raises(ValueError, match=r"train\.lr was 0\.03, is 0\.5"):
            train(base_config(lr=0.5), name="base_8", data=shards, out=finished, runtime=runtime)
        assert sorted(path for path in finished.rglob("*")) == before


class TestNaN:
    def test_it_stops_the_run_names_the_samples_and_changes_nothing(
        self, shards, runtime, finished, tmp_path, monkeypatch
    ):
        """At the fifth update; the same command then goes on from the last checkpoint as if nothing had been."""
        out = tmp_path / "run"
        forward = BaseStage.forward

        def poisoned(stage, batch, seed, **more):
            losses = forward(stage, batch, seed, **more)
            return losses._replace(loss=losses.loss * torch.nan) if batch.index[0] == 32 else losses

        def slow(saver, what, job, run=Saver._run):
            time.sleep(0.5)  # the update that fails comes while the checkpoint before it is still being written
            run(saver, what, job)

        with monkeypatch.context() as patch:
            patch.setattr(BaseStage, "forward", poisoned)
            patch.setattr(Saver, "_run", slow)
            with pytest.raises(RuntimeError) as error:
                train(base_config(max_skipped=0), name="base_8", data=shards, out=out, runtime=runtime)
        told = str(error.value)
        assert "stage base_8: loss nan" in told
        assert "at image 32, the 1. update in a row that was skipped (samples 0" in told
        assert " at sigma " in told
        assert "the last good checkpoint is nimg-0000000024" in told
        assert nimg_of(RunDir(out).latest()) == 24
        train(base_config(), name="base_8", data=shards, out=out, runtime=runtime)
        assert_equal_runs(out, finished)


class TestSettings:
    """What a run makes of its settings, seen in the network while it trains."""

    @pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
    def test_the_network_computes_in_the_precision_asked_for(self, shards, runtime, tmp_path, precision, dtype):
        seen = set()

        def look(module, _inputs, output):
            if isinstance(module, Block) and torch.is_grad_enabled():
                seen.add(output.dtype)

        hook = torch.nn.modules.module.register_module_forward_hook(look)
        try:
            train(base_config(images=8, precision=precision), name="base_8", data=shards, out=tmp_path, runtime=runtime)
        finally:
            hook.remove()
        assert seen == {dtype}

    def test_activations_are_kept_or_computed_again(self, shards, runtime, tmp_path):
        kept = []
        for again in (False, True):
            sizes: list[int] = []
            config = base_config(images=8, checkpoint_activations=again)
            with torch.autograd.graph.saved_tensors_hooks(lambda t, to=sizes: to.append(t.nbytes) or t, lambda t: t):
                train(config, name="base_8", data=shards, out=tmp_path / str(again), runtime=runtime)
            kept.append(sum(sizes))
        assert 0 < kept[1] < 0.5 * kept[0]

    def test_averages_stay_where_an_update_is_skipped(self, shards, runtime, tmp_path, monkeypatch):
        """Two updates and a skipped one: the averages of two."""
        forward = BaseStage.forward

        def poisoned(stage, batch, seed, **more):
            losses = forward(stage, batch, seed, **more)
            return losses._replace(loss=losses.loss * torch.nan) if batch.index[0] == 16 else losses

        monkeypatch.setattr(BaseStage, "forward", poisoned)
        found = []
        for images in (16, 24):
            out = tmp_path / str(images)
            train(base_config(images=images, save_every=8), name="base_8", data=shards, out=out, runtime=runtime)
            found.append([load_file(RunDir(out).latest() / f"ema-{each}.safetensors") for each in (16, 64)])
        assert nimg_of(RunDir(tmp_path / "24").latest()) == 24
        assert_close(found[1], found[0], rtol=0, atol=0)
        weights = load_file(RunDir(tmp_path / "16").latest() / "state.safetensors")
        assert any(not torch.equal(tensor, weights[f"weights/{name}"]) for name, tensor in found[0][1].items())


def test_a_stage_needs_no_other_stage_s_files(shards, runtime, finished, tmp_path):
    """The same super-resolution bundle beside a base stage's run and with nothing but shards in the world."""
    config: StageConfig = sr_config(images=24)
    bundles = []
    for name in ("beside", "alone"):
        folder = tmp_path / name
        folder.mkdir()
        if name == "beside":
            (folder / "base_8").symlink_to(finished)
        bundles.append(train(config, name="sr_16", data=shards, out=folder / "sr_16", runtime=runtime))
    assert (bundles[0] / "ema.safetensors").read_bytes() == (bundles[1] / "ema.safetensors").read_bytes()
    assert read_sidecar(bundles[1]).contract.low_res == 8
    assert [path.name for path in (tmp_path / "alone").iterdir()] == ["sr_16"]


class TestMicroBatch:
    def test_none_is_the_rank_s_share(self):
        assert micro_batch(base_config(), world=2) == 4

    def test_it_must_divide_the_share(self):
        assert micro_batch(base_config(micro_batch=2), world=2) == 2
        with pytest.raises(ValueError, match=r"train\.micro_batch 3 does not divide 4 = batch 8 / 2 processes"):
            micro_batch(base_config(micro_batch=3), world=2)
