"""What the first minutes count and show: true drawings are right, others are not, and the sheet says which."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision.transforms.v2.functional import pil_to_tensor

from cascade.config import load_config
from cascade.first_minutes import (
    CAPTIONS,
    CELL,
    PAIRS,
    PRESET,
    SIDE,
    UNSEEN,
    Drawn,
    cells,
    check_free,
    command,
    composed,
    first_minutes,
    overrides,
)
from cascade.output.pictures import grid, save_png
from cascade.output.sheet import FAULT
from data.shapes import COLORS
from data.world.captions import Caption, Group
from data.world.kinds import OBJECT_KINDS, Object
from data.world.scenes import Scene, draw


@pytest.fixture(scope="module")
def true() -> torch.Tensor:
    """A true drawing of each caption."""
    return torch.stack([pil_to_tensor(draw(drawing(*pair), SIDE)) for pair in PAIRS])


def drawing(kind: str, color: str) -> Scene:
    one = Object(kind=kind, color=color, x=0.5, y=0.5, radius=0.3)
    return Scene(caption=Caption(groups=(Group(count=1, kind=kind, color=color),)), objects=(one,), background=240)


def test_every_caption_of_one_object_is_painted_once():
    assert len(set(CAPTIONS)) == len(OBJECT_KINDS) * len(COLORS) == 56
    assert sum(UNSEEN) == len(OBJECT_KINDS)


def test_true_drawings_are_right(true):
    drawn = Drawn.of(true)
    assert all(drawn.right)
    assert str(drawn) == "56 of 56 captions drawn right (7 of the 7 that no training picture shows)"


def test_two_drawings_that_change_places_are_wrong(true):
    """The first is of a pair that training shows, the second of a hidden one."""
    seen, hidden = UNSEEN.index(False), UNSEEN.index(True)
    changed = true.clone()
    changed[[seen, hidden]] = true[[hidden, seen]]
    drawn = Drawn.of(changed)
    assert [k for k, right in enumerate(drawn.right) if not right] == sorted((seen, hidden))
    assert str(drawn) == "54 of 56 captions drawn right (6 of the 7 that no training picture shows)"


@pytest.mark.parametrize("columns", [1, 8])
def test_cells_are_what_a_grid_was_made_of(true, columns):
    assert torch.equal(cells(grid(true, columns), SIDE), true)


def test_the_sheet_writes_wrong_captions_in_red(true):
    shelf = torch.full((4, 100, 200), 255, dtype=torch.uint8)
    for right in (True, False):
        whole = composed(shelf, Drawn(pictures=true, right=(right,) * len(PAIRS)), ("above", "below"))
        assert whole.width == len(COLORS) * (CELL + 8)
        assert (FAULT in {color for _, color in whole.getcolors(1 << 22)}) is not right
    assert isinstance(whole, Image.Image)


def test_the_line_that_goes_on_is_the_command_with_its_lengths():
    images = {"base_16": 8, "sr_64": 4}
    assert command(Path("runs/demo"), images) == "python -m cascade.demo --base-images 8 --sr-images 4"
    assert command(Path("a b"), images) == "python -m cascade.demo --out 'a b' --base-images 8 --sr-images 4"


def test_lengths_are_those_of_the_trainings():
    config = load_config(PRESET, overrides({"base_16": 8_000, "sr_64": 4_000}))
    assert {name: stage.train.images for name, stage in config.stages.items()} == {"base_16": 8_000, "sr_64": 4_000}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["shipped.png", "trained.png", "demo.png"])
def test_pictures_of_others_are_refused_before_any_work(name, tmp_path):
    """Those of an earlier demo are replaced."""
    Image.new("RGB", (8, 8)).save(tmp_path / name)
    before = (tmp_path / name).read_bytes()
    with pytest.raises(ValueError, match=rf"--out .*{name} is there and the demo did not write it; move it away"):
        first_minutes(tmp_path, {"base_16": 64, "sr_64": 32})
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == before

    for own in ("shipped.png", "trained.png"):
        save_png(torch.zeros(3, 8, 8, dtype=torch.uint8), tmp_path / own, {"stages": {}})
    (tmp_path / "cascade.json").write_text("{}")
    check_free(tmp_path)


@pytest.mark.timeout(60)
def test_a_place_that_cannot_be_is_refused_before_any_work():
    """Its line came after the table was begun, and gave no reason. No folder can be made in Linux's /proc, by nobody."""
    with pytest.raises(ValueError, match=r"^/proc/demo: this folder cannot be made \(.*: No such file or directory\)"):
        first_minutes(Path("/proc/demo"), {"base_16": 64, "sr_64": 32})
