"""Sweeps: a planted optimum is found, an interrupted sweep ends as an undisturbed one, and sampling uses what was written."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import cascade.judge.sweep
from cascade.engine.host import own_host
from cascade.judge.__main__ import COMMANDS
from cascade.judge.sweep import RAW, TRUE_LOW_RES, Search
from cascade.judge.sweep_rule import JUDGE, KID, PSNR
from cascade.judge.sweep_setup import Setup
from cascade.judge.sweep_store import Store
from cascade.judge.sweep_weights import Weights
from cascade.link import Link
from cascade.manifest import MANIFEST, read_manifest, write_manifest
from cascade.pipeline import Cascade
from data.batch import Batch, Cond, to_float, to_uint8
from data.pack.packer import pack
from data.pack.settings import PackSettings
from data.resize import downsample
from data.shapes import write_folder
from stages.bundle import WEIGHTS, find_bundle, load_bundle
from stages.config import AugConfig, SampleConfig, SuperResConfig
from stages.diffusion.samplers import Answer
from stages.texts import as_values
from stages.training.engine import weights_of
from stages.training.rundir import RunDir
from stages.training.saving import write_snapshot
from tests.calling import call
from tests.cascade.chains import random_weights, sidecar, tiny_config, write_cascade
from tests.worlds import TINY_NET, FiniteData, FiniteSuperRes

from .laws import pictures

SWEEP = COMMANDS["sweep"]
PLANTED = 0.2


@pytest.fixture(autouse=True)
def _few(monkeypatch):
    """One thread, and the coarse pass alone."""
    torch.set_num_threads(1)
    monkeypatch.setattr(cascade.judge.sweep, "ROUNDS", 1)


class Planted(FiniteSuperRes):
    """The ideal stage of a finite world at aug_sigma PLANTED; at other levels its pictures lose contrast."""

    def denoise(self, x, sigma, cond):
        x0_hat = super().denoise(x, sigma, cond).x0_hat
        return Answer(x0_hat * (1 - (cond.value("aug") - PLANTED).abs())[:, None, None, None])


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """The outcome of a sweep of one stage, of which PLANTED is the best aug_sigma and nothing else matters as much."""
    folder = tmp_path_factory.mktemp("planted")
    images = pictures(330, 16)
    low_res = to_uint8(downsample(to_float(images), (8, 8)))
    sample = SampleConfig(num_steps=2, sigma_max=2.0, sigma_min=0.05)
    config = SuperResConfig(resolution=16, low_res=8, net=TINY_NET, aug=AugConfig(max_sigma=1.0), sample=sample)
    stage = Planted(config, FiniteData(images=to_float(images[:40]), low_size=8))
    link = Link(name="sr_16", hosts=own_host("sr_16", stage), sidecar=sidecar(config), settings=sample)
    keys = tuple(str(number) for number in range(330))
    batch = Batch(image=images, cond=Cond.empty(330), index=torch.arange(330), keys=keys)
    search = Search(
        link=link, weights=Weights(link=link, run=folder), pictures=batch, below=low_res, seed=1,
        store=Store(folder / "sweep.json", {"cascade": {}}), budget_s=600, told=lambda trial, start: None,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cascade.judge.sweep, "PAINTED_AT_ONCE", 330)
        patch.setattr(cascade.judge.sweep, "ROUNDS", 2)
        return search.run()


class TestPlantedOptimum:
    def test_aug_sigma_is_found_within_the_grid(self, planted):
        assert planted.chosen.setup.sample.aug_sigma == PLANTED
        assert planted.verdict.startswith("better: KID -")

    def test_its_neighbours_were_tried_too(self, planted):
        levels = {trial.setup.sample.aug_sigma for trial in planted.trials}
        assert {0.0, 0.1, PLANTED, 0.3, 0.15, 0.25} <= levels

    def test_true_low_res_stands_beside(self, planted):
        """What is painted below is true here, so both are one."""
        bound = planted.bounds[TRUE_LOW_RES]
        assert bound[KID].value == planted.chosen.scores[KID].value
        assert bound[PSNR].value > 10
        assert RAW not in planted.bounds


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("swept")
    write_folder(folder / "source", 60, 16)
    pack(folder / "source", folder / "shards", PackSettings(size=16, val=0.9, shards=1), workers=0)
    return folder / "shards"


@pytest.fixture(scope="module")
def classes(shards):
    return tuple(json.loads((shards / "index.json").read_text())["classes"])


@pytest.fixture
def folder(tmp_path, classes):
    """A cascade of random networks, by class."""
    return write_cascade(tmp_path / "cascade", tiny_config(8, 16, classes=len(classes)), classes=classes)


def swept(folder, shards, *more):
    return call(SWEEP, folder, "--data", shards, "--minutes", 20, "--num", 16, "--device", "cpu", *more)


def told(folder):
    """The stages of the manifest, as JSON."""
    return json.loads((folder / MANIFEST).read_text())["stages"]


def test_what_was_chosen_is_written_with_the_evidence_and_used(folder, shards, capsys):
    before = read_manifest(folder)
    assert swept(folder, shards, "--dry-run") == 0
    assert read_manifest(folder) == before
    assert "stays as it is" in capsys.readouterr().out
    assert swept(folder, shards) == 0  # the trials are stored: nothing is painted twice
    after = read_manifest(folder)
    model = Cascade.load(folder)
    for link in model.links:
        entry = after.stages[link.name]
        evidence = entry.evidence
        assert link.settings == entry.sample
        assert (evidence.num, evidence.seed, evidence.half, evidence.split) == (16, 1, "dev", "val")
        assert evidence.weights == link.host.sha256
        assert evidence.before == before.stages[link.name].sample
        assert evidence.tried[0].settings == {}
        assert len(evidence.tried) > 10
        chosen = evidence.tried[evidence.chosen].settings
        assert all(told(folder)[link.name]["sample"][key] == value for key, value in chosen.items())
    assert after != before
    assert TRUE_LOW_RES in after.stages["sr_16"].evidence.bounds
    assert not list(folder.glob("*.safetensors"))
    assert not list(folder.glob("*.lock"))
    capsys.readouterr()
    assert swept(folder, shards) == 0
    assert "has the settings of this sweep" in capsys.readouterr().out


def test_an_interrupted_sweep_ends_as_an_undisturbed_one(folder, shards, classes, tmp_path, monkeypatch, capsys):
    whole = write_cascade(tmp_path / "whole", tiny_config(8, 16, classes=len(classes)), classes=classes)
    assert swept(whole, shards) == 0
    add, added = Store.add, []

    def interrupted(store, stage, trial):
        if len(added) % 6 != 3:  # before it is stored: what was painted is lost
            add(store, stage, trial)
        added.append(trial)
        if len(added) % 6 == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(Store, "add", interrupted)
    codes = [swept(folder, shards)]
    while codes[-1] == 130:
        assert told(folder).keys() == {"base_8", "sr_16"}
        assert "evidence" not in told(folder)["base_8"]
        codes.append(swept(folder, shards))
    assert codes[-1] == 0
    assert len(codes) > 5
    assert told(folder) == told(whole)


def test_only_what_is_named_is_changed(folder, shards, capsys):
    before = told(folder)
    assert swept(folder, shards, "--only", "sr_16=sampler", "--only", "sr_16=sigma_min") == 0
    assert "base_8: " not in capsys.readouterr().out
    after = told(folder)
    assert after["base_8"] == before["base_8"]
    tried = after["sr_16"]["evidence"]["tried"]
    assert len(tried) > 5
    assert {key for each in tried for key in each["settings"]} == {"sampler", "num_steps", "sigma_min"}


def test_another_precision_is_another_sweep(folder, shards, capsys):
    only = ("--only", "sr_16=sigma_max")
    assert swept(folder, shards, *only, "--precision", "bf16", "--dry-run") == 0
    assert swept(folder, shards, *only, "--dry-run") == 2
    assert "was begun with another precision (it was bf16, is fp32)" in capsys.readouterr().err
    assert swept(folder, shards, *only, "--precision", "bf16") == 0
    assert told(folder)["sr_16"]["evidence"]["precision"] == "bf16"


def test_the_evidence_that_ships_is_of_the_weights_and_settings_that_ship():
    folder = Path(cascade.__file__).parent / "shipped" / "emoji_styles"
    entry = read_manifest(folder).stages["sr_64"]
    evidence = entry.evidence
    weights = find_bundle(folder / entry.bundle) / WEIGHTS
    assert evidence.weights == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert evidence.judge == JUDGE
    chosen = evidence.tried[evidence.chosen].settings
    assert chosen
    assert as_values(entry.sample) == as_values(evidence.before) | chosen


def test_a_cascade_that_changed_is_refused(folder, shards, capsys):
    assert swept(folder, shards, "--dry-run") == 0
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["stages"]["base_8"]["sample"]["rho"] = 5.0
    (folder / MANIFEST).write_text(json.dumps(manifest))
    assert swept(folder, shards) == 2
    message = capsys.readouterr().err
    assert "was begun with another cascade: base_8: sample: rho (it was 7.0, is 5.0); remove it" in message
    manifest["stages"]["base_8"]["sample"]["rho"] = 7.0
    (folder / MANIFEST).write_text(json.dumps(manifest))
    assert swept(folder, shards, "--seed", "5") == 2
    assert "was begun with another seed (it was 1, is 5)" in capsys.readouterr().err


def test_training_that_goes_on_keeps_what_was_chosen(folder, shards, classes):
    assert swept(folder, shards) == 0
    chosen = told(folder)
    write_manifest(tiny_config(8, 16, classes=len(classes)), folder)
    assert told(folder) == chosen


def test_a_damaged_state_is_one_line(folder, shards, capsys):
    (folder / "sweep.json").write_text('{"version": 1, "stages": {"base_8": {"trials": [{}], "bounds": {}}}}')
    assert swept(folder, shards) == 2
    assert "sweep.json: damaged (KeyError: 'scores'); remove it" in capsys.readouterr().err


def test_averages_of_the_run_are_weights_to_choose_from(folder, tmp_path):
    """The bundle is of half-life 1 at image 100, and a snapshot has the half-life 50, too."""
    link = Cascade.load(folder).links[0]
    run, config = folder / "base_8", link.sidecar.config
    stored = random_weights(config, seed=3)
    write_snapshot(RunDir(run), 100, {1: random_weights(config, seed=0), 50: stored})
    weights = Weights(link=link, run=run)
    assert 50 in weights.half_lives()
    assert 1 not in weights.half_lives()
    other = weights.averaged(50)
    weights.save(50, tmp_path / "bundle")
    expected = load_bundle(tmp_path / "bundle")
    for name, weight in weights_of(other.stage).items():
        torch.testing.assert_close(weight, weights_of(expected)[name], rtol=1e-3, atol=1e-4)
    assert weights.raw() is None
    assert Weights(link=link, run=tmp_path).half_lives() == ()
    assert replace(other, settings=Setup(sample=SampleConfig()).sample).settings == SampleConfig()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--num", "8"), r"8 pictures to choose on (the dev half of"),
        (("--num", "-1"), "--num -1: give a number"),
        (("--minutes", "0"), "--minutes 0: give the minutes"),
        (("--minutes", "0.0001"), "2 stages as it is and in one other way, with 16 pictures, takes about"),
        (("--seed", "0"), "--seed 0 is what reports paint with"),
        (("--only", "guidance"), "--only guidance: 'guidance' is not one of half_life, aug_sigma,"),
        (("--only", "sr_32=sampler"), "there is no stage 'sr_32'; the cascade has base_8, sr_16"),
        (("--precision", "fp16"), "--precision fp16: allowed are fp32 and bf16"),
        (("--state", "/nowhere/sweep.json"), "there is no folder /nowhere"),
        (("--split", "test"), "test"),
    ],
)
def test_mistakes_are_one_line(folder, shards, capsys, options, message):
    assert swept(folder, shards, *options) == 2
    captured = capsys.readouterr().err
    assert message in captured
    assert captured.count("\n") == 1
    assert not (folder / "sweep.json").exists()


def test_data_without_what_the_cascade_needs(folder, tmp_path, capsys):
    write_folder(tmp_path / "source", 40, 16)
    (tmp_path / "source" / "metadata.jsonl").unlink()
    pack(tmp_path / "source", tmp_path / "plain", PackSettings(size=16, val=0.9, shards=1), workers=0)
    assert swept(folder, tmp_path / "plain") == 2
    assert "has no class labels" in capsys.readouterr().err
    assert call(SWEEP, folder) == 2
    assert "--data SHARDS is needed" in capsys.readouterr().err
