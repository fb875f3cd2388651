"""`python -m cascade.guide`: a bundle or an early snapshot beside a stage, named in the manifest; and away again."""

import json

import pytest

from cascade import guide
from cascade.manifest import MANIFEST, read_manifest
from cascade.pipeline import Cascade
from cascade.request import Request
from stages.ask import OWN
from stages.bundle import read_sidecar
from stages.guiding.autoguidance import GUIDE

from .chains import finished, levels_apart, tiny_config, write_bundle, write_cascade


@pytest.fixture
def folder(tmp_path):
    return write_cascade(tmp_path / "run", tiny_config(8, 16)) and tmp_path / "run"


def test_a_bundle_becomes_the_guide_and_goes_again(folder, tmp_path, capsys):
    before = (folder / MANIFEST).read_text()
    weak = write_bundle(tmp_path / "weak", tiny_config(8).stages["base_8"], seed=9)
    guide.main(folder, "base_8", bundle=weak)
    assert "has the guide base_8/guide; its autoguidance_scale is 1.0" in capsys.readouterr().out
    model = Cascade.load(folder)
    assert model.links[0].hosts[GUIDE].sha256 == read_sidecar(weak).sha256 != model.links[0].hosts[OWN].sha256
    plain = finished(model.sample(Request(seed=1)))
    asked = Request(seed=1, settings={"base_8": {"autoguidance_scale": 2.5}})
    assert levels_apart(plain, finished(model.sample(asked))) > 1
    guide.main(folder, "base_8", none=True)
    assert (folder / MANIFEST).read_text() == before
    assert levels_apart(plain, finished(Cascade.load(folder).sample(Request(seed=1)))) == 0


def test_a_snapshot_is_exported_from_the_stage_s_run(folder, monkeypatch):
    """Which average it is of is `stages.export`'s matter, and tested there."""
    asked = []

    def main(source, out, *, nimg, half_life):
        asked.append((source, nimg, half_life))
        write_bundle(out, tiny_config(8).stages["base_8"], seed=4)

    monkeypatch.setattr("stages.export.main", main)
    guide.main(folder, "base_8", nimg=4000, half_life=100)
    assert asked == [(folder / "base_8", 4000, 100)]
    assert read_manifest(folder).stages["base_8"].guide == "base_8/guide"


def test_mistakes_change_nothing(folder, tmp_path):
    before = json.loads((folder / MANIFEST).read_text())
    other = write_bundle(tmp_path / "other", tiny_config(16).stages["base_16"])
    for options, message in (
        ({}, "name one of --bundle BUNDLE, --nimg IMAGES and --none"),
        ({"nimg": 5, "none": True}, "name one of"),
        ({"bundle": other}, "has resolution 16, the stage 8; choose another guide"),
        ({"bundle": tmp_path / "nothing"}, "no stage.json there"),
        ({"nimg": 5}, "run|config|averages|snapshot"),
        ({"bundle": other, "half_life": 5}, "--half-life 5: it is of the average that --nimg takes"),
    ):
        with pytest.raises((ValueError, OSError), match=message):
            guide.main(folder, "base_8", **options)
    with pytest.raises(ValueError, match="no stage 'base_9', it has base_8, sr_16"):
        guide.main(folder, "base_9", none=True)
    assert json.loads((folder / MANIFEST).read_text()) == before
    assert not (folder / "base_8" / "guide").exists()


def test_a_guide_that_the_settings_need_stays(folder, tmp_path):
    guide.main(folder, "base_8", bundle=write_bundle(tmp_path / "weak", tiny_config(8).stages["base_8"], seed=9))
    content = json.loads((folder / MANIFEST).read_text())
    content["stages"]["base_8"]["sample"]["autoguidance_scale"] = 2.0
    (folder / MANIFEST).write_text(json.dumps(content))
    with pytest.raises(
        ValueError, match=r"--none: stage base_8 has autoguidance_scale 2 in .*; set it to 1 there first"
    ):
        guide.main(folder, "base_8", none=True)
    assert GUIDE in Cascade.load(folder).links[0].hosts
