"""`python -m cascade.judge score`: folders, data sets and statistics against each other, and what cannot be."""

import csv
import json
import tarfile

import pytest
import torch
from PIL import Image

from cascade.judge.__main__ import score_main
from cascade.judge.grain import sharpness
from cascade.judge.score import score
from cascade.judge.side import load_side
from data.pack.packer import pack
from data.pack.settings import PackSettings
from data.shapes import write_folder
from data.world.scenes import write_folder as write_world
from tests.calling import call

from .laws import noisy, pictures


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def folder_of(images, folder):
    folder.mkdir()
    for k, image in enumerate(images):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{k:04d}.png")
    return folder


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """1,300 true pictures of 16 px, as two folders and as a data set."""
    root = tmp_path_factory.mktemp("shapes")
    a, b = write_folder(root / "a", 650, 16, seed=1), write_folder(root / "b", 650, 16, seed=2)
    pack(a, root / "shards", PackSettings(size=16, val=0.2, shards=4), workers=0)
    return root, a, b


def test_two_draws_of_one_law_are_at_the_floor(shapes, tmp_path, capsys):
    _, a, b = shapes
    assert call(score_main, a, b, "--json", tmp_path / "out.json") == 0
    found = json.loads((tmp_path / "out.json").read_text())
    assert (found["num_real"], found["num_generated"], found["left_out"]) == (650, 650, {})
    scores = found["scores"]
    assert abs(scores["KID"]) < 3 * scores["KID, standard error"]
    assert scores["FD at N = 650"] < scores["FD of halves of the real, N = 325"]
    assert scores["precision"] > 0.9
    assert scores["coverage"] > 0.9
    printed = capsys.readouterr().out
    assert "650 pictures" in printed
    assert "look-1" in printed


def test_speckle_is_seen_by_every_measure_that_should(shapes, tmp_path):
    _, a, b = shapes
    side = load_side(str(b))
    spoiled = folder_of(noisy(side.pictures, 25), tmp_path / "spoiled")
    true, bad = (score(load_side(str(a)), load_side(str(each))).scores for each in (b, spoiled))
    assert bad["KID"] > 10 * bad["KID, standard error"]
    assert bad["FD at N = 650"] > 5 * true["FD at N = 650"]
    assert bad["grain, generated"] > 3 * bad["grain, real"]
    assert bad["precision"] < 0.5


def test_a_data_set_is_a_side_and_statistics_are(shapes, tmp_path):
    root, a, _ = shapes
    assert call(score_main, a, root / "shards", "--split", "train", "--save", tmp_path / "train.npz") == 0
    assert call(score_main, tmp_path / "train.npz", tmp_path / "train.npz", "--json", tmp_path / "out.json") == 0
    assert json.loads((tmp_path / "out.json").read_text())["scores"]["FD"] == pytest.approx(0, abs=1e-9)


def test_a_tar_of_pictures_is_the_folder_of_them(tmp_path, capsys):
    """Also with a broken one; its texts are captions. A damaged tar and one without pictures are one line."""
    folder = folder_of(pictures(6, 32), tmp_path / "a")
    (folder / "0003.png").write_bytes(b"no picture")
    (folder / "0001.txt").write_text("a red circle")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, path.name)
    whole, side = load_side(str(folder)), load_side(str(tmp_path / "a.tar"), captions=True)
    assert side.names == whole.names == ("0000.png", "0001.png", "0002.png", "0004.png", "0005.png")
    assert torch.equal(side.pictures, whole.pictures)
    assert side.captions == ("", "a red circle", "", "", "")
    assert side.broken[0].startswith("0003.png: no JPEG,")
    assert call(score_main, folder, tmp_path / "a.tar") == 0
    assert "a.tar/0003.png is left out" in capsys.readouterr().err
    content = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(content[: len(content) // 2])
    with tarfile.open(tmp_path / "texts.tar", "w") as tar:
        tar.add(folder / "0001.txt", "0001.txt")
    for name, message in (("cut.tar", "cut.tar"), ("texts.tar", "has no pictures (png, jpg")):
        assert call(score_main, folder, tmp_path / name) == 2
        assert message in capsys.readouterr().err


def test_a_broken_file_is_named_and_the_rest_goes_on(tmp_path, capsys):
    for name in ("a", "b"):
        folder_of(pictures(20, 32), tmp_path / name)
    (tmp_path / "b" / "0003.png").write_bytes(b"no picture")
    assert call(score_main, tmp_path / "a", tmp_path / "b") == 0
    printed = capsys.readouterr()
    assert "b/0003.png is left out" in printed.err
    assert "19 pictures" in printed.out
    assert "left out: real: 20 samples for 32 dimensions; ten a dimension, 320, are needed" in printed.out


def test_a_line_a_picture_names_its_nearest_true_picture(tmp_path, capsys):
    true = pictures(8, 32)
    real, generated = folder_of(true, tmp_path / "a"), folder_of(true[[5, 2]], tmp_path / "b")
    assert call(score_main, real, generated, "--csv", tmp_path / "out.csv") == 0
    rows = list(csv.DictReader((tmp_path / "out.csv").read_text().splitlines()))
    assert [(row["name"], row["neighbour"]) for row in rows] == [("0000.png", "0005.png"), ("0001.png", "0002.png")]
    assert [float(row["distance"]) for row in rows] == [0, 0]
    assert [float(row["sharpness"]) for row in rows] == pytest.approx(sharpness(true[[5, 2]]).tolist(), rel=1e-5)
    assert {row["lpips"] + row["caption_cosine"] + row["caption"] for row in rows} == {""}
    capsys.readouterr()
    assert call(score_main, real, tmp_path / "b.npz", "--csv", tmp_path / "out.csv") == 2
    assert "GENERATED is a statistics file already" in capsys.readouterr().err


def test_larger_pictures_are_shrunk_where_that_is_asked_for(tmp_path, capsys):
    folder_of(pictures(8, 64), tmp_path / "a")
    folder_of(pictures(8, 32), tmp_path / "b")
    assert call(score_main, tmp_path / "a", tmp_path / "b") == 2
    assert "sizes: real and generated are 64 x 64 and 32 x 32 px" in capsys.readouterr().err
    assert call(score_main, tmp_path / "a", tmp_path / "b", "--size", 32) == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda f: f.mkdir(), "has no pictures"),
        (lambda f: None, "does not exist"),
        (lambda f: f.write_text("text"), "is a file; name a folder or a .tar of pictures"),
        (
            lambda f: folder_of([*pictures(2, 32), *pictures(2, 16)], f),
            "pictures of 16 x 16, 32 x 32 px; one size is needed",
        ),
        (lambda f: f.with_suffix(".npz").write_bytes(b"x"), "no .npz file, or damaged"),
    ],
)
def test_what_is_no_side_is_one_line(tmp_path, capsys, make, message):
    make(tmp_path / "bad")
    bad = tmp_path / "bad.npz" if (tmp_path / "bad.npz").exists() else tmp_path / "bad"
    assert call(score_main, folder_of(pictures(4, 32), tmp_path / "good"), bad) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in line


def test_pictures_that_are_all_too_small_are_one_line(tmp_path, capsys):
    folder = folder_of(pictures(4, 32), tmp_path / "small")
    assert call(score_main, folder, folder, "--size", 99) == 2
    assert "none of 4 pictures can be used; the first: 0000.png: 32 x 32 px" in capsys.readouterr().err


def test_a_file_that_could_not_be_written_is_refused_before_the_work(tmp_path, capsys):
    assert call(score_main, "nowhere", "nowhere", "--json", tmp_path / "no" / "out.json") == 2
    assert f"there is no folder {tmp_path / 'no'}" in capsys.readouterr().err


def test_near_white_ink_is_seen_on_grey_alone(tmp_path, capsys):
    """Transparent pictures with a white square, against others without it."""
    inked = tmp_path / "inked"
    folders = (inked, tmp_path / "empty")
    for folder in folders:
        folder.mkdir()
        for k in range(8):
            image = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
            if folder == inked:
                image.paste((255, 255, 255, 255), (k, k, k + 8, k + 8))
            image.save(folder / f"{k}.png")
    shards = [folder.with_name(f"{folder.name}_shards") for folder in folders]
    for folder, packed in zip(folders, shards, strict=True):
        pack(folder, packed, PackSettings(size=16, alpha=True, shards=1), workers=0)
    for sides, more in ((folders, ()), (shards, ("--split", "train"))):
        found = {}
        for background in ("white", "grey"):
            options = (*more, "--background", background, "--json", tmp_path / "out.json")
            assert call(score_main, *sides, *options) == 0
            assert f"background {background}" in capsys.readouterr().out
            found[background] = json.loads((tmp_path / "out.json").read_text())
        assert [each["background"] for each in found.values()] == ["white", "grey"]
        white, grey = (each["scores"] for each in found.values())
        assert white["colour drift, mean (levels)"] == [0, 0, 0]
        assert max(white["SWD by level, finest first"]) == 0
        assert grey["colour drift, mean (levels)"] == pytest.approx([-127 / 4] * 3)  # of a quarter of the pixels
        assert min(grey["SWD by level, finest first"]) > 0.5


def test_pictures_that_were_packed_on_white_have_no_grey_under_them(shapes, capsys):
    root, a, _ = shapes
    assert call(score_main, a, root / "shards", "--background", "grey") == 2
    assert "was packed on white, its pictures have no transparency left" in capsys.readouterr().err


def test_captions_of_the_world_are_drawn_right(tmp_path, capsys):
    """All of true pictures; of pictures whose captions were exchanged, those alone that say the same."""
    true = write_world(tmp_path / "true", 12, 32, show="train")
    rows = [json.loads(line) for line in (true / "metadata.jsonl").read_text().splitlines()]
    texts = [row["text"] for row in rows]
    assert call(score_main, true, true, "--world", "--json", tmp_path / "out.json") == 0
    assert json.loads((tmp_path / "out.json").read_text())["scores"]["captions drawn right, of"] == [12, 12]
    assert "captions drawn right, of" in capsys.readouterr().out
    moved = [row | {"text": text} for row, text in zip(rows, texts[1:] + texts[:1], strict=True)]
    (true / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in moved))
    assert call(score_main, true, true, "--world", "--json", tmp_path / "out.json") == 0
    found = json.loads((tmp_path / "out.json").read_text())["scores"]
    same = sum(a == b for a, b in zip(texts, texts[1:] + texts[:1], strict=True))
    assert found["captions drawn right, of"][1] == 12
    assert same <= found["captions drawn right, of"][0] < 6
    (true / "metadata.jsonl").write_text("".join(json.dumps(row | {"text": "a house"}) + "\n" for row in rows))
    assert call(score_main, true, true, "--world") == 2
    assert "--world is for pictures of data.world" in capsys.readouterr().err
    assert call(score_main, true, folder_of(pictures(4, 32), tmp_path / "plain"), "--world") == 2
    assert "no picture has a caption" in capsys.readouterr().err
