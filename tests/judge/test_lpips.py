"""LPIPS from local files of a backbone and its heads, and which pictures are pairs."""

import csv
import json

import pytest
import torch

from cascade.judge.__main__ import score_main
from cascade.judge.local import pairs
from cascade.judge.lpips import BACKBONES, Lpips
from data.files import file_sha256
from tests.calling import call

from . import oracle
from .encoders import write_lpips
from .laws import noisy, pictures
from .test_score import folder_of


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """By backbone: files of random weights and heads, and their hashes."""
    folder = tmp_path_factory.mktemp("lpips")
    return {backbone.name: write_lpips(folder, backbone) for backbone in BACKBONES}


def test_it_is_torch_fidelitys(files):
    found = Lpips.load(*files["vgg16"]).distances(oracle.pictures(3), oracle.pictures(3, seed=1))
    torch.testing.assert_close(found, torch.tensor(oracle.stored()["lpips, vgg16"]).double(), rtol=1e-4, atol=1e-5)


def test_equal_pictures_are_at_0_and_noise_moves_them_away(files):
    network, true = Lpips.load(*files["alexnet"]), pictures(5, 64)
    found = [network.distances(each, true) for each in (true, noisy(true, 5), noisy(true, 40))]
    assert torch.equal(found[0], torch.zeros(5).double())
    assert (found[1] > 0).all()
    assert (found[2] > found[1]).all()


def test_one_file_may_hold_both_under_the_names_of_lpips(files, tmp_path):
    paths, hashes = files["alexnet"]
    backbone, heads = (torch.load(path, weights_only=True) for path in paths)
    renamed = {name.replace("features.", "net.slice1."): each for name, each in backbone.items()}
    torch.save(renamed | heads, tmp_path / "whole.pth")
    whole = Lpips.load([tmp_path / "whole.pth"], {file_sha256(tmp_path / "whole.pth")})
    sides = pictures(2, 32), pictures(2, 32, seed=3)
    assert torch.equal(whole.distances(*sides), Lpips.load(paths, hashes).distances(*sides))


def test_what_does_not_belong_together_is_one_line(files):
    (alex, alex_heads), hashes = files["alexnet"]
    (_, vgg_heads), others = files["vgg16"]
    with pytest.raises(ValueError, match=r"no heads of LPIPS \(lin0\.model\.1\.weight is missing\)"):
        Lpips.load([alex], hashes)
    with pytest.raises(ValueError, match="the backbone is vgg16, by the heads"):
        Lpips.load([alex, vgg_heads], hashes + others)
    with pytest.raises(ValueError, match=r"lacks features\.0\.weight"):
        Lpips.load([alex_heads], hashes)
    with pytest.raises(ValueError, match="30 x 30 px; RGB of at least 31 px is needed by alexnet"):
        Lpips.load([alex, alex_heads], hashes).distances(pictures(1, 30), pictures(1, 30))


@pytest.mark.parametrize("backbone", BACKBONES, ids=lambda each: each.name)
def test_the_smallest_picture_is_the_smallest(files, backbone):
    network = Lpips.load(*files[backbone.name])
    side = backbone.smallest
    assert network.distances(pictures(1, side), pictures(1, side, seed=1)).isfinite().all()
    with torch.inference_mode(), pytest.raises(RuntimeError, match="too small"):
        network._network(torch.zeros(1, 3, side - 1, side - 1))


def test_pairs_have_one_name():
    assert pairs(["a.png", "b.png", "c.png"], ["c.webp", "x.png", "a"]) == ([2, 0], [0, 2])
    assert pairs(["a.png", "a.jpg"], ["a.png"]) == ([], [])


def test_a_score_of_pairs_and_of_none(files, tmp_path, capsys):
    true = pictures(6, 32)
    real, generated = folder_of(true, tmp_path / "a"), folder_of(noisy(true, 20)[:4], tmp_path / "b")
    paths, hashes = files["alexnet"]
    options = ["--device", "cpu", "--json", tmp_path / "out.json", "--csv", tmp_path / "out.csv"]
    for path, sha256 in zip(paths, hashes, strict=True):
        options += ["--lpips", path, "--sha256", sha256]
    assert call(score_main, real, generated, *options) == 0
    scores = json.loads((tmp_path / "out.json").read_text())["scores"]
    rows = list(csv.DictReader((tmp_path / "out.csv").read_text().splitlines()))
    each = [float(row["lpips"]) for row in rows]
    assert scores["LPIPS, 4 pairs"] == pytest.approx(sum(each) / 4, rel=1e-5)
    for path in sorted(generated.iterdir()):
        path.rename(path.with_name(f"other{path.name}"))
    assert call(score_main, real, generated, *options) == 0
    assert "no picture has the name of one of the other side" in capsys.readouterr().out
    assert [row["lpips"] for row in csv.DictReader((tmp_path / "out.csv").read_text().splitlines())] == [""] * 4
