"""Pictures that are judged are those that sampling gives."""

from dataclasses import replace

import pytest
import torch

from cascade.judge.painted import paint, read_conditions
from cascade.pipeline import Cascade
from cascade.request import Request
from data.batch import Batch, Cond
from data.pack.packer import pack
from data.pack.settings import PackSettings
from data.shapes import write_folder
from stages.config import CondConfig
from tests.cascade.chains import finished, tiny, tiny_config, write_cascade
from tests.gray_maps import write_maps
from tests.judge.test_mismatch import ROOT

LABELS = (2, 0, 1)


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_a_stage_paints_what_the_cascade_samples(scale):
    model = tiny(8, 16, classes=3, guidance_scale=scale)
    cond = Cond.of(torch.ones(3, dtype=torch.bool), label=torch.tensor(LABELS))
    batch = Batch(image=torch.zeros(3, 3, 16, 16), cond=cond, index=torch.arange(3), keys=("a", "b", "c"))
    base, upper = model.links
    events = list(model.sample(Request(labels=LABELS, seed=5)))
    below = paint(base, batch, seed=5)
    assert torch.equal(below, finished(events, base.name))
    assert torch.equal(paint(upper, batch, below, seed=5), finished(events))
    settings = {upper.name: {"aug_sigma": 0.5, "num_steps": 3}}
    changed = finished(model.sample(Request(labels=LABELS, seed=5, settings=settings)))
    assert torch.equal(paint(upper, batch, below, seed=5, aug_sigma=0.5, num_steps=3), changed)


def test_settings_that_are_not_allowed_are_one_line():
    model = tiny(8, 16)
    batch = Batch(image=torch.zeros(1, 3, 16, 16), cond=Cond.empty(1), index=torch.arange(1), keys=("a",))
    with pytest.raises(ValueError, match=r"aug_sigma 9\.0 is above 1\.0"):
        paint(model.links[1], batch, torch.zeros(1, 3, 8, 8, dtype=torch.uint8), aug_sigma=9.0)


def test_the_first_pictures_of_a_split_with_their_conditions(tmp_path):
    settings = PackSettings(size=16, limit=24, val=0.5, shards=1, label_column="group")
    index = pack(ROOT / "data" / "emoji64", tmp_path / "shards", settings, workers=0)
    model = tiny(8, 16, classes=len(index.classes or ()))
    few, all_ = (list(read_conditions(model, str(tmp_path / "shards"), num=num)) for num in (3, 0))
    assert [len(batch) for batch in few] == [3]
    assert sum(map(len, all_)) == index.num_images["val"]
    assert few[0].keys == all_[0].keys[:3]
    assert few[0].cond.parts.keys() == {"label"}


def test_a_stage_that_stops_early_is_refused():
    """Judged to its end it would be another sampler than the manifest's."""
    base = tiny(8, 16).links[0]
    batch = Batch(image=torch.zeros(1, 3, 16, 16), cond=Cond.empty(1), index=torch.arange(1), keys=("a",))
    with pytest.raises(ValueError, match=r"stage base_8: sigma_end 0\.2: stages are judged one by one.*set it to 0"):
        paint(base, batch, sigma_end=0.2)


def test_maps_of_the_split_are_read_and_used(tmp_path):
    """Each stage of a cascade with maps paints by those of the data, at its own size; another map, another picture. Of original
    sizes a stage is told its own, as in sampling, whatever they are in the data."""
    folder = write_folder(tmp_path / "pictures", 12, 24)
    settings = PackSettings(size=16, shards=1, val=0.5, maps=str(write_maps(tmp_path / "maps", folder)))
    pack(folder, tmp_path / "shards", settings, workers=0)
    conds = {
        "base_8": CondConfig(maps={"channels": 1}),
        "sr_16": CondConfig(maps={"channels": 1}, original_size={}),
    }
    config = tiny_config()
    stages = {name: stage.model_copy(update={"cond": conds[name]}) for name, stage in config.stages.items()}
    model = Cascade.load(write_cascade(tmp_path / "cascade", config.model_copy(update={"stages": stages})))
    batch = next(read_conditions(model, str(tmp_path / "shards"), num=3))
    assert batch.cond.value("maps").shape == (3, 1, 16, 16)
    base, upper = model.links
    below = paint(base, batch, seed=5)
    made = paint(upper, batch, below, seed=5)
    swapped = replace(batch, cond=batch.cond[torch.tensor([1, 2, 0])])
    assert not torch.equal(paint(base, swapped, seed=5), below)
    own, other = (paint(upper, batch, below, seed=5, original_size=(side, side)) for side in (16, 999))
    assert torch.equal(made, own)
    assert not torch.equal(made, other)
    coloured = {"base_8": CondConfig(maps={"channels": 3}), "sr_16": CondConfig()}
    stages = {name: stage.model_copy(update={"cond": coloured[name]}) for name, stage in config.stages.items()}
    other = Cascade.load(write_cascade(tmp_path / "coloured", config.model_copy(update={"stages": stages})))
    with pytest.raises(ValueError, match=r"maps have 1 channels, cond\.maps\.channels is 3"):
        next(read_conditions(other, str(tmp_path / "shards")))
