"""Inception's features from a local file, and what `score --inception` says with and without enough pictures."""

import json

import pytest
import torch

from cascade.judge.__main__ import score_main
from cascade.judge.frechet import frechet_distance
from cascade.judge.inception import Inception, Seen, architecture, enlarge
from cascade.judge.local import fid
from cascade.judge.stored import load_moments
from data.files import file_sha256
from tests.calling import call

from . import oracle
from .laws import pictures
from .test_score import folder_of


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A file of random weights, and its hash."""
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    with torch.device("meta"):
        shapes = {name: each.shape for name, each in architecture().state_dict().items()}
    torch.save(oracle.weights(shapes), path)
    return path, file_sha256(path)


def test_features_and_logits_are_torch_fidelitys(file):
    seen = Inception.load(file[0], {file[1]}).see(oracle.pictures(2))
    told = oracle.stored()["inception features"]
    assert (seen.features.shape, seen.logits.shape) == ((2, 2048), (2, 1008))
    for own, name in ((seen.features, "2048"), (seen.logits, "logits_unbiased")):
        torch.testing.assert_close(own[:, :8], torch.tensor(told[name]).double(), rtol=1e-4, atol=1e-4)


def test_pictures_are_enlarged_from_the_corner():
    ramp = torch.arange(0, 200, 2, dtype=torch.uint8).expand(1, 3, 50, 100)
    found = (enlarge(ramp) * 128 + 128)[0, 0, 0]
    torch.testing.assert_close(found, (torch.arange(299) * 200 / 299).clamp(max=198), rtol=0, atol=1e-3)


def test_fid_is_the_frechet_distance_at_equal_n_with_its_floor():
    real, generated = (
        Seen(features=oracle.draw(num, 4, seed=num, shift=shift), logits=oracle.draw(num, 4))
        for num, shift in ((400, 0.0), (300, 0.5))
    )
    scores, left_out = fid(real, generated, torch.Generator().manual_seed(0))
    assert left_out == {}
    assert set(scores) == {"FID at N = 300", "FID of halves of the real, N = 200", "FID at infinite N"}
    assert scores["FID at infinite N"] == pytest.approx(1.0, abs=0.3)  # four shifts of 0.5
    assert scores["FID of halves of the real, N = 200"] < 0.2
    assert scores["FID at N = 300"] == pytest.approx(frechet_distance(real.features[:300], generated.features), rel=0.2)


def test_too_few_pictures_are_told_by_name_and_the_rest_goes_on(file, tmp_path):
    for name in ("a", "b"):
        folder_of(pictures(4, 32), tmp_path / name)
    options = ("--inception", file[0], "--sha256", file[1], "--device", "cpu", "--json", tmp_path / "out.json")
    assert call(score_main, tmp_path / "a", tmp_path / "b", *options) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["left_out"]["FID"] == "4 pictures a side; 20,480 are needed, ten for each of 2,048 dimensions"
    assert found["left_out"]["IS, real"] == "4 pictures; 10,080 are needed, ten for each of 1,008 classes"
    assert found["weights"] == {"inception": file[1]}
    assert "grain, real" in found["scores"]


def test_a_file_that_is_another_one_leaves_fid_and_is_out(file, tmp_path, capsys):
    folder = folder_of(pictures(4, 32), tmp_path / "a")
    for path, message in ((file[0], "is not that of the published file"), (tmp_path / "none.pth", "is no file")):
        assert call(score_main, folder, folder, "--inception", path, "--device", "cpu") == 0
        lines = capsys.readouterr().out.splitlines()
        assert [line.split()[0] for line in lines if message in line] == ["FID", "IS"]


def test_weights_of_another_network_leave_fid_out(tmp_path, capsys):
    torch.save({"fc.weight": torch.zeros(2, 2)}, tmp_path / "other.pth")
    folder = folder_of(pictures(4, 32), tmp_path / "a")
    options = ("--inception", tmp_path / "other.pth", "--sha256", file_sha256(tmp_path / "other.pth"))
    assert call(score_main, folder, folder, *options, "--device", "cpu") == 0
    assert "lacks Conv2d_1a_3x3.conv.weight; the weights are of another network" in capsys.readouterr().out


def test_statistics_are_by_inception_and_too_few_are_refused(file, tmp_path, capsys):
    folder = folder_of(pictures(3, 32), tmp_path / "a")
    options = ("--inception", file[0], "--sha256", file[1], "--device", "cpu")
    assert call(score_main, folder, folder, *options, "--save", tmp_path / "a.npz") == 0
    stored = load_moments(tmp_path / "a.npz")
    assert (len(stored.mean), stored.num, stored.ruler.sha256) == (2048, 3, file[1])
    capsys.readouterr()
    assert call(score_main, tmp_path / "a.npz", folder, *options) == 2
    assert "generated: 3 samples for 2,048 dimensions; ten a dimension, 20,480, are needed" in capsys.readouterr().err
