"""sample.py --uncertainty: a map beside each picture, kept with it by the same rules; refused where no bundle can tell it."""

import numpy as np
import pytest
from PIL import Image

import sample
from cascade.output.pictures import read_metadata
from tests.calling import call
from tests.cascade.unsure import write_unsure


@pytest.fixture(scope="module")
def unsure(tmp_path_factory):
    return write_unsure(tmp_path_factory.mktemp("unsure") / "both")


def test_single_files_and_a_grid_have_maps_beside_them(unsure, tmp_path, capsys):
    told = ("--cascade", unsure, "--num", 2, "--uncertainty")
    assert call(sample.main, *told, "--out", f"{tmp_path}/single/") == 0
    names = ["000000.png", "000000.uncertainty.png", "000001.png", "000001.uncertainty.png"]
    assert sorted(path.name for path in (tmp_path / "single").glob("*.png")) == names
    assert [line.rpartition("/")[2] for line in capsys.readouterr().out.splitlines()] == names
    pixels = np.asarray(Image.open(tmp_path / "single" / names[1]))
    assert pixels.shape == (16, 16, 3)
    assert pixels.std() > 0
    assert (pixels[..., 0] == pixels[..., 2]).all()
    said = read_metadata(tmp_path / "single" / names[1])
    assert said == read_metadata(tmp_path / "single" / names[0]) | {"uncertainty": True}
    (tmp_path / "single" / names[3]).unlink()
    assert call(sample.main, *told, "--out", f"{tmp_path}/single/") == 0
    assert (tmp_path / "single" / names[3]).is_file()
    assert call(sample.main, *told, "--out", f"{tmp_path}/single/") == 0
    assert "nothing to do" in capsys.readouterr().err

    assert call(sample.main, *told, "--out", tmp_path / "grid.png") == 0
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["grid.png", "grid.uncertainty.png"]
    grid = np.asarray(Image.open(tmp_path / "grid.uncertainty.png"))
    assert (grid[2:18, 2:18] == pixels).all()
    assert not (tmp_path / "grid.parts").exists()


def test_pictures_are_those_without_maps(unsure, tmp_path):
    for name, more in (("with", ("--uncertainty",)), ("without", ())):
        assert call(sample.main, "--cascade", unsure, "--num", 1, *more, "--out", tmp_path / f"{name}.png") == 0
    assert (tmp_path / "with.png").read_bytes() == (tmp_path / "without.png").read_bytes()


def test_what_cannot_is_refused_with_what_can(unsure, trained, tmp_path, refused):
    low = write_unsure(tmp_path / "low", ("base_8",))
    out = tmp_path / "out.png"
    told = "cannot tell it, trained without learned_variance;"
    for cascade, hint in ((low, "of this cascade base_8 can"), (trained, "no stage of this cascade can, leave it out")):
        said = refused(sample.main, "--cascade", cascade, "--uncertainty", "--num", 1, "--out", out)
        assert f"--uncertainty: sr_16 {told} {hint}" in said
    assert not out.exists()
    assert call(sample.main, "--cascade", low, "--until", "base_8", "--uncertainty", "--num", 1, "--out", out) == 0
    again = ("--cascade", low, "--again", tmp_path / "out.uncertainty.png", "--out", tmp_path / "again.png")
    assert "a map of what was uncertain; name the picture that lies beside it" in refused(sample.main, *again)
    shards = ("--cascade", unsure, "--uncertainty", "--shard-size", 4, "--out", tmp_path / "shards")
    assert "leave --image, --pick, --overwrite, --uncertainty, --seconds out" in refused(sample.main, *shards)
