"""Out of memory beside training: a grid and a validation are done in smaller portions or left out, and the run goes on."""

import json

import pytest
import torch
from PIL import Image
from PIL.ImageChops import difference

from data.pack.packer import pack
from data.pack.settings import PackSettings
from data.shapes import write_folder
from stages.bundle import read_sidecar
from stages.memory import Portions
from stages.stage import Stage
from stages.training.loop import train
from stages.training.runtime import Options
from tests.stages.tiny import base_config, sr_config

pytestmark = pytest.mark.filterwarnings("ignore:::tensorboard")


@pytest.fixture(scope="module")
def held_out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("held_out")
    pack(
        write_folder(folder / "pictures", 96, 16),
        folder / "shards",
        PackSettings(size=16, shards=8, val=0.2),
        workers=0,
    )
    return folder / "shards"


@pytest.fixture
def limited(monkeypatch):
    """Stages that do not train run out of memory with more pictures at once than this says: torch's own complaint."""
    denoise, most = Stage.denoise, []

    def guarded(self, x, *args, **kwargs):
        if not self.training and most and len(x) > most[-1]:
            torch.empty(2**60)
        return denoise(self, x, *args, **kwargs)

    monkeypatch.setattr(Stage, "denoise", guarded)
    return most


@pytest.mark.parametrize("kind", ["base", "super_res"])
def test_a_grid_and_a_validation_that_do_not_fit_are_done_in_portions(
    kind, held_out, runtime, tmp_path, limited, capsys
):
    """The picture and the losses are those of a machine with room, but for sums in another order."""
    config = (base_config if kind == "base" else sr_config)(images=24, grid_every=24)
    lower = train(base_config(images=8), name="below", data=held_out, out=tmp_path / "below", runtime=runtime)
    options = Options(lower=lower if kind == "super_res" else None)
    found = {}
    for name in ("room", "narrow"):
        limited += [3] if name == "narrow" else []
        run = tmp_path / name
        train(config, name="mine", data=held_out, out=run, runtime=runtime, options=options)
        line = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
        found[name] = {key: value for key, value in line.items() if key.startswith(("val_loss", "loss"))}
    assert found["narrow"] == pytest.approx(found["room"], rel=1e-4)
    assert "val_loss" in found["room"]
    pictures = [Image.open(tmp_path / name / "samples" / "nimg-0000000024.png") for name in found]
    assert max(high for _, high in difference(*pictures).getextrema()) <= 1
    told = capsys.readouterr().err
    for what in ("mine: grid", "validation", *(["validation with --lower"] if kind == "super_res" else [])):
        assert f"{what}: out of memory; " in told
    assert "pictures at once are tried" in told


def test_what_does_not_fit_at_all_is_left_out_and_training_goes_on(held_out, runtime, tmp_path, limited, capsys):
    limited.append(0)
    bundle = train(
        base_config(images=24, grid_every=8), name="mine", data=held_out, out=tmp_path / "run", runtime=runtime
    )
    assert read_sidecar(bundle).provenance.nimg == 24
    assert read_sidecar(bundle).provenance.scores == {}
    assert list((tmp_path / "run" / "samples").iterdir()) == []
    told = capsys.readouterr().err
    assert told.count("mine: grid: out of memory; skipped; training goes on") == 3
    assert "validation: out of memory; skipped; training goes on" in told


def test_a_portion_that_did_not_fit_is_not_tried_again():
    portions, tried = Portions("grid"), []

    def work(own: slice) -> int:
        tried.append(own.stop - own.start)
        if tried[-1] > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return own.start

    assert portions.each(16, work) == [0, 4, 8, 12]
    assert tried == [16, 8, 4, 4, 4, 4]
    assert portions.each(16, work) == [0, 4, 8, 12]
    assert max(tried[6:]) == 4


def test_other_faults_are_told_as_they_are():
    def work(own: slice) -> None:
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        Portions("grid").each(4, work)
