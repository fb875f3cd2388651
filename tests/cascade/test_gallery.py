"""The picture of calls that ships is laid out as its script lays it out, of the cascade that ships."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cascade.events import StageFinished
from cascade.first_minutes import SHIPPED
from cascade.judge.about import read_about
from cascade.manifest import read_manifest
from cascade.pipeline import Cascade
from cascade.request import Request
from data.pack.packer import pack
from data.pack.settings import PackSettings
from tests.bench.gallery import ROWS, Row, cell, check_new, painted, sheet, shown
from tests.cascade.chains import STYLES, write_both

PICTURE = SHIPPED.parent / "emoji_styles_calls.webp"


def test_the_picture_that_ships():
    entries = read_manifest(SHIPPED).stages
    names = list(entries)
    cells = {}
    for name, entry in entries.items():
        nfe, side = entry.sample.num_steps, int(re.search(r"\d+$", name)[0])
        for call in shown(nfe, name == names[0], name == names[-1]):
            cells[name, call, nfe] = torch.zeros(len(ROWS), 3, side, side, dtype=torch.uint8)
    with Image.open(PICTURE) as image:
        assert image.size == sheet(ROWS, cells).size
    assert PICTURE.stat().st_size < 150_000


@pytest.mark.parametrize(
    ("nfe", "is_first", "is_last", "calls"),
    [(12, True, False, [1, 7, 9, 12]), (4, False, False, [1, 4]), (2, False, True, [2]), (1, True, True, [1])],
)
def test_which_calls_are_shown(nfe, is_first, is_last, calls):
    assert shown(nfe, is_first, is_last) == calls


def test_every_row_is_painted_by_its_own_prompt_and_style(tmp_path):
    """The first picture of a request for it alone."""
    model = Cascade.load(write_both(tmp_path / "both"))
    rows = [Row(prompt="red apple", style=STYLES[2]), Row(prompt="a cat", style=STYLES[0])]
    found = painted(model, rows, seed=3)
    request = Request(prompts=("a cat",), labels=(0,), seed=3)
    alone = {e.stage: e.images for e in model.sample(request) if isinstance(e, StageFinished)}
    last = max(place for place in found if place[0] == model.names[-1])
    assert (found[last][1].int() - alone[last[0]][0].int()).abs().max() <= 1
    assert (found[last][0].int() - found[last][1].int()).abs().max() > 8


def test_pixels_are_repeated_or_averaged():
    one = torch.arange(3 * 16 * 16).reshape(3, 16, 16).to(torch.uint8)
    large = torch.from_numpy(np.asarray(cell(one)).copy()).permute(2, 0, 1)
    assert torch.equal(large, one.repeat_interleave(8, 1).repeat_interleave(8, 2))


def test_known_prompts_are_refused(tmp_path):
    root = Path(__file__).parents[2]
    pack(root / "data" / "emoji64", tmp_path / "shards", PackSettings(size=16, limit=12), workers=0)
    num = check_new(ROWS, str(tmp_path / "shards"))
    assert num == 12
    known = next(iter(read_about(str(tmp_path / "shards"), "train").values())).caption
    with pytest.raises(ValueError, match="choose another prompt"):
        check_new([Row(prompt=known.upper(), style="noto")], str(tmp_path / "shards"))
