"""tests/bench/guidance.py: what its ways cost, that stored pictures of other settings are refused, and captions drawn right."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from cascade.first_minutes import SHIPPED
from cascade.pipeline import Cascade
from data.batch import Batch, Cond
from data.world.scenes import draw, scene
from stages.ask import OWN
from stages.guidance import GUIDE
from tests.bench.guidance import WAYS, calls, captions_of, drawn_right, kept_or_painted
from tests.bench.painting import Conditions


@pytest.fixture(scope="module")
def link():
    """The base stage that ships, as its own guide: then autoguidance changes nothing."""
    loaded = Cascade.load(SHIPPED, last="base_16").links[0]
    return replace(loaded, hosts={**loaded.hosts, GUIDE: loaded.hosts[OWN]})


@pytest.fixture
def conditions(link):
    image = torch.zeros(2, 4, 16, 16, dtype=torch.uint8)
    batch = Batch(image=image, cond=Cond.empty(2), index=torch.arange(2), keys=("a", "b"))
    return Conditions(link=link, batches=(batch,), true=image)


def test_every_way_costs_what_its_parts_do(link):
    """Twelve calls; four of their levels are in the narrow interval, six in the wide one."""
    told = {name: (total[OWN], total[GUIDE]) for name, total in ((name, calls(link, WAYS[name])) for name in WAYS)}
    assert (told["none"], told["cfg 3"], told["auto 2"]) == ((12, 0), (24, 0), (12, 12))
    assert (told["cfg 3 narrow"], told["auto 2 narrow"]) == ((16, 0), (12, 4))
    assert (told["cfg 1.5 auto 1.5"], told["cfg 2 auto 2 wide"]) == ((24, 12), (18, 6))
    assert (told["cfg 4"], told["cfg 2 auto 2"], told["cfg 2 auto 2 narrow"]) == ((24, 0), (24, 12), (16, 4))


def test_pictures_are_kept_and_those_of_others_are_refused(conditions, tmp_path):
    path, changes = tmp_path / "none.safetensors", {"guidance_scale": 1, "num_steps": 2}
    painted = kept_or_painted(path, conditions, {"num": 2}, changes)
    assert painted.shape == (2, 4, 16, 16)
    assert painted.float().std() > 10
    before = path.stat().st_mtime_ns
    assert torch.equal(kept_or_painted(path, conditions, {"num": 2}, changes), painted)
    assert path.stat().st_mtime_ns == before
    for said, other in (({"num": 3}, changes), ({"num": 2}, changes | {"autoguidance_scale": 2})):
        with pytest.raises(ValueError, match="was made by other weights, data or settings; remove it, or name another"):
            kept_or_painted(path, conditions, said, other)


def test_a_guide_that_is_the_stage_itself_leads_nowhere(conditions):
    ways = ({"guidance_scale": 1, "num_steps": 2, "autoguidance_scale": scale} for scale in (1, 3))
    alone, by_itself = (conditions.painted(**changes) for changes in ways)
    assert torch.equal(alone, by_itself)


def test_captions_are_found_by_name_and_read_in_the_pictures(conditions, tmp_path):
    scenes = [scene(k) for k in (5, 8)]
    rows = [{"file_name": f"{key}.png", "text": each.caption.text} for key, each in zip("ba", scenes, strict=True)]
    file = tmp_path / "metadata.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert captions_of(file, conditions) == [scenes[1].caption.text, scenes[0].caption.text]
    pictures = torch.stack([torch.from_numpy(np.array(draw(each, 16))).permute(2, 0, 1) for each in scenes])
    own, first = [each.caption.text for each in scenes], [scenes[0].caption.text] * 2
    assert (drawn_right(pictures, own).tolist(), drawn_right(pictures, first).tolist()) == ([1, 1], [1, 0])
    file.write_text(json.dumps(rows[0]) + "\n")
    with pytest.raises(ValueError, match="no picture a; name the metadata"):
        captions_of(file, conditions)
