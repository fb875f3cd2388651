"""The spectrum that a run measures, keeps and hands on, and the loss of a linear filter that its log tells."""

import json

import pytest
import torch

from cascade.train.costs import measure_rate
from data.pack.packer import pack
from data.pack.settings import PackSettings
from data.read.mixture import facts
from data.shapes import write_folder
from stages import measure, runs
from stages.bundle import load_bundle, read_sidecar
from stages.parametrisations.spectral_config import SpectralConfig
from stages.spectrum import num_bands, spectrum
from stages.training.loop import train
from stages.training.measured import IMAGES, resolved
from stages.training.rundir import RunDir
from stages.training.runtime import Options
from tests.stages.tiny import base_config, shapes_batch, sr_config

KEYS = {"kind": "spectral", "bands": 2}


def spectral(config, **keys):
    return config.model_validate(config.model_dump() | {"parametrisation": KEYS | keys})


@pytest.fixture(scope="module")
def held_out_shards(tmp_path_factory):
    """Shapes of 16 px, a third of them held out."""
    folder = tmp_path_factory.mktemp("spectrum")
    source = write_folder(folder / "pictures", 60, 16)
    pack(source, folder / "shards", PackSettings(size=16, shards=8, val=0.3), workers=0)
    return folder / "shards"


@pytest.fixture(scope="module")
def other_shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("other")
    source = write_folder(folder / "pictures", 40, 16, seed=9)
    pack(source, folder / "shards", PackSettings(size=16, shards=8), workers=0)
    return folder / "shards"


class TestSpectrum:
    @pytest.mark.parametrize("low", [False, True])
    def test_white_data_are_white_and_what_their_low_res_lacks_is_measured(self, low):
        images = torch.randint(0, 256, (200, 3, 16, 16), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
        config = base_config() if not low else sr_config()
        config = config.model_copy(update={"resolution": 16})
        found = spectrum(config, [images], bands=3)
        flat = torch.tensor(found.std).flatten()
        assert flat.tolist() == pytest.approx([2 / 12**0.5] * 9, rel=0.06)  # uniform in [-1, 1]
        assert found.mean == pytest.approx((0, 0, 0), abs=0.02)
        assert bool(found.error) == low
        if low:  # at 8 px the finest octave is gone, the coarsest nearly all there
            assert found.error[0][0] == pytest.approx(2 / 12**0.5, rel=0.1)
            assert found.error[2][0] < 0.35 * found.std[2][0]

    def test_it_does_not_depend_on_how_pictures_are_batched(self):
        images = shapes_batch(24, 16).image
        config = base_config().model_copy(update={"resolution": 16})
        whole, parts = (spectrum(config, each, bands=3) for each in ([images], images.split(5)))
        for a, b in zip(whole.std, parts.std, strict=True):
            assert a == pytest.approx(b, rel=2e-3)

    def test_flat_pictures_of_any_colour_have_no_fine_bands(self):
        images = torch.randint(0, 256, (50, 3, 1, 1), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
        config = base_config().model_copy(update={"resolution": 16})
        found = spectrum(config, [images.expand(-1, -1, 16, 16)], bands=3)
        assert found.std[0] == found.std[1] == (0.002,) * 3
        assert min(found.std[2]) > 1

    def test_what_degradations_do_to_low_res_is_part_of_its_error(self):
        """Noise of std 0.5 u^2 on grey pictures, of variance 0.25 / 5 a pixel of 8 px, which is four of 16 px."""
        images = torch.full((200, 3, 16, 16), 128, dtype=torch.uint8)
        config = sr_config()
        noisy = {"probability": 1, "blur": 0, "noise": 0.5, "jpeg": 100}
        clean, degraded = (
            spectrum(config.model_validate(config.model_dump() | {"degrade": degrade}), [images], bands=3)
            for degrade in ({}, noisy)
        )
        assert clean.error[2] == (0.002,) * 3
        assert degraded.std == clean.std
        assert degraded.error[2][1] == pytest.approx((4 * 0.25 / 5 * 0.6) ** 0.5, rel=0.1)  # 40 % of the noise is gray
        assert degraded.error[2][0] == pytest.approx((4 * 0.25 / 5 * (0.6 + 0.4 * 3)) ** 0.5, rel=0.1)
        halves = spectrum(config.model_validate(config.model_dump() | {"degrade": noisy}), images.split(100), bands=3)
        assert halves.error == degraded.error

    @pytest.mark.parametrize(("side", "num"), [(64, 5), (16, 3), (4, 1), (48, 4), (37, 1), (36, 3)])
    def test_as_many_bands_as_halve_evenly(self, side, num):
        assert num_bands(side) == num

    def test_no_pictures(self):
        with pytest.raises(ValueError, match="no pictures to measure"):
            spectrum(base_config(), [], bands=2)


def test_the_command_prints_what_a_yaml_takes(held_out_shards, capsys):
    import yaml

    measure.main(str(held_out_shards), resolution=16, low_res=8)
    found = yaml.safe_load(capsys.readouterr().out)
    values = sr_config().model_dump() | found | {"noise": sr_config().noise.model_dump() | found["noise"]}
    config = sr_config().model_validate(values)
    assert isinstance(config.parametrisation, SpectralConfig)
    assert config.parametrisation.bands == 3
    assert config.parametrisation.error


def test_the_command_measures_what_train_does(held_out_shards, tmp_path):
    """With the degradations, too, which draw the same random numbers."""
    config = sr_config()
    config = spectral(config.model_validate(config.model_dump() | {"degrade": {"probability": 0.5, "order": 2}}))
    trained, _ = resolved(config, held_out_shards, facts(held_out_shards).fingerprint, RunDir(tmp_path))
    sides = (str(held_out_shards), config.resolution, config.low_res, IMAGES, 2)
    found = measure.measured(*sides, measure.degrade_of(["degrade.probability=0.5", "degrade.order=2"]))
    assert found == trained.parametrisation
    assert found.std == measure.measured(*sides).std
    assert found.error != measure.measured(*sides).error


@pytest.mark.parametrize("bands", [-1, 6])
def test_the_command_refuses_bands_that_do_not_fit(held_out_shards, bands):
    with pytest.raises(ValueError, match=f"--bands {bands}: 16 px do not halve"):
        measure.main(str(held_out_shards), resolution=16, bands=bands)


class TestRun:
    @pytest.mark.parametrize("config", [base_config(), sr_config()], ids=["base", "super_res"])
    def test_measured_numbers_are_in_config_and_bundle_and_a_resume_is_exact(
        self, config, held_out_shards, runtime, tmp_path
    ):
        whole, halves = tmp_path / "whole", tmp_path / "halves"
        config = spectral(config)
        bundle = train(config, name="s", data=held_out_shards, out=whole, runtime=runtime)
        half = config.model_copy(update={"train": config.train.model_copy(update={"images": 24})})
        train(half, name="s", data=held_out_shards, out=halves, runtime=runtime)
        train(config, name="s", data=held_out_shards, out=halves, runtime=runtime)
        weights = [load_bundle(folder / "bundle").state_dict() for folder in (whole, halves)]
        lr_differs = config.train.schedule != "constant"
        assert lr_differs or all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
        known = read_sidecar(bundle).config.parametrisation
        assert known.is_measured
        assert known == RunDir(halves).before().parametrisation
        assert json.loads((whole / "config.json").read_text())["data"] == known.data

    def test_it_stays_that_of_the_run_when_the_data_change_which_is_told(
        self, held_out_shards, other_shards, runtime, tmp_path, capsys
    ):
        config = spectral(base_config(images=24))
        train(config, name="s", data=held_out_shards, out=tmp_path, runtime=runtime)
        known = RunDir(tmp_path).before().parametrisation
        longer = spectral(base_config(images=48))
        capsys.readouterr()
        train(longer, name="s", data=other_shards, out=tmp_path, runtime=runtime, options=Options(allow=("data",)))
        assert "was measured on other data" in capsys.readouterr().err
        assert RunDir(tmp_path).before().parametrisation == known

    def test_given_numbers_of_other_data_are_told_and_used(self, held_out_shards, tmp_path):
        config = spectral(base_config(), std=[[1], [2]], data="elsewhere")
        found, notes = resolved(config, held_out_shards, "here", RunDir(tmp_path))
        assert found == config
        assert "was measured on other data (elsewhere, these are here)" in notes[0]
        assert resolved(config, held_out_shards, "elsewhere", RunDir(tmp_path))[1] == []

    def test_other_bands_than_the_run_s_are_refused(self, held_out_shards, runtime, tmp_path):
        train(spectral(base_config(images=24)), name="s", data=held_out_shards, out=tmp_path, runtime=runtime)
        with pytest.raises(ValueError, match=r"parametrisation.bands was 2, is 1"):
            train(spectral(base_config(), bands=1), name="s", data=held_out_shards, out=tmp_path, runtime=runtime)

    def test_what_a_stage_costs_needs_no_measurement(self):
        rate, _ = measure_rate(spectral(sr_config()), 2, torch.device("cpu"))
        assert rate > 0


class TestFloor:
    def lines(self, folder):
        return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]

    @pytest.mark.parametrize("config", [base_config(), sr_config()], ids=["base", "super_res"])
    def test_it_is_the_start_of_a_spectral_run_and_below_that_of_edm(self, config, held_out_shards, runtime, tmp_path):
        """Validation of a network that still answers zero: a learning rate of nearly nothing."""
        still = config.model_copy(update={"train": config.train.model_copy(update={"lr": 1e-9})})
        found = {}
        for name, each in (("edm", still), ("spectral", spectral(still))):
            train(each, name="s", data=held_out_shards, out=tmp_path / name, runtime=runtime)
            found[name] = self.lines(tmp_path / name)[-1]
        edm, own = found["edm"], found["spectral"]
        assert edm["linear_floor"] < 0.8 * edm["val_loss"]
        assert own["linear_floor"] == pytest.approx(
            own["val_loss"], rel=0.15
        )  # measured on other pictures, in other bands

    def test_a_run_that_stays_above_is_named_and_one_that_falls_below_is_not(self, tmp_path, capsys):
        for name, losses in (("bad", (0.9, 0.8)), ("good", (0.9, 0.4)), ("early", (0.9, None))):
            run = RunDir(tmp_path / name)
            run.open(base_config(images=48, warmup=30), "data")
            lines = [
                {"nimg": nimg, "loss": 1.0, "linear_floor": 0.5, "val_loss": loss}
                for nimg, loss in zip((24, 48), losses, strict=True)
            ]
            run.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
        runs.main(tmp_path, plot=tmp_path / "plot.png")
        printed = capsys.readouterr().out
        assert "bad: its validation loss stays above 0.5000, that of a linear filter" in printed
        assert "good: its" not in printed
        assert "early: its" not in printed
        assert "linear floor" in printed.splitlines()[0]
        runs.main(tmp_path, as_json=True)
        found = {each["name"]: each["above_floor"] for each in json.loads(capsys.readouterr().out)}
        assert found == {"bad": True, "good": False, "early": False}

    def test_data_without_a_val_split_have_none(self, other_shards, runtime, tmp_path):
        train(base_config(images=8), name="s", data=other_shards, out=tmp_path, runtime=runtime)
        assert "linear_floor" not in self.lines(tmp_path)[-1]
