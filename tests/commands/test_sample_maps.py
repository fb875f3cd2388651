"""sample.py --map: a cascade that was trained with maps is told what is where by pictures; what does not suit is refused."""

import json

import numpy as np
import pytest
from PIL import Image

import sample
import train
from cascade.output.pictures import read_metadata, read_png
from data.pack.packer import pack
from data.pack.settings import PackSettings
from data.shapes import write_folder
from tests.calling import call
from tests.gray_maps import write_maps

MAPPED = """
name: mapped
stages:
  base_8:
    kind: base
    resolution: 8
    net: &net {widths: [8, 16], blocks: [1, 1], emb_dim: 16}
    cond: &cond {num_classes: 6, maps: {channels: 1}, drop: DROP}
    train: &train {images: 32, batch: 8, workers: 0, warmup: 0, ema: [16], precision: fp32, compile: false, lr: 0.2,
                   save_every: 32, log_every: 8, grid_every: 32, val_images: 0}
    sample: &sample {num_steps: 2, sigma_max: 5.0, sigma_min: 0.02}
  sr_16:
    kind: super_res
    resolution: 16
    low_res: 8
    net: *net
    cond: *cond
    train: *train
    sample: *sample
"""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """64 shapes of 16 px, and a gray map of each: where it is dark."""
    folder = tmp_path_factory.mktemp("mapped")
    write_folder(folder / "shapes", 64, 16)
    write_maps(folder / "maps", folder / "shapes")
    return folder


@pytest.fixture(scope="module")
def mapped(pictures):
    """Two trained cascades: one that knows pictures without a map, and one that does not (`mapped["0"]`)."""
    settings = PackSettings(size=16, shards=8, maps=str(pictures / "maps"))
    pack(pictures / "shapes", pictures / "shards", settings, workers=0)
    folders = {}
    for drop in ("0.2", "0"):
        (pictures / f"{drop}.yaml").write_text(MAPPED.replace("DROP", drop))
        folders[drop] = pictures / f"runs-{drop}"
        for stage in ("base_8", "sr_16"):
            where = ("--data", pictures / "shards", "--out", folders[drop])
            assert call(train.main, pictures / f"{drop}.yaml", stage, *where) == 0
    return folders


@pytest.fixture
def drawn(tmp_path):
    """Three maps of 32 px: left dark, right dark, all dark."""
    (tmp_path / "drawn").mkdir()
    cols = np.arange(32)[None].repeat(32, 0)
    for name, pixels in {"a": cols < 16, "b": cols >= 16, "c": cols >= 0}.items():
        Image.fromarray(np.where(pixels, 0, 255).astype(np.uint8)).save(tmp_path / "drawn" / f"{name}.png")
    return tmp_path / "drawn"


def test_each_map_of_a_folder_makes_its_picture_and_it_is_made_again(mapped, drawn, tmp_path):
    out = tmp_path / "out"
    told = ("--cascade", mapped["0"], "--label", "ring")
    assert call(sample.main, *told, "--map", drawn, "--out", f"{out}/") == 0
    made = [read_png(out / f"00000{k}.png") for k in range(3)]
    assert len(list(out.glob("*.png"))) == 3
    assert not (made[0] == made[1]).all()
    said = read_metadata(out / "000001.png")
    assert said["maps"].keys() == {"shape", "sha256"}
    again = ("--cascade", mapped["0"], "--again", out / "000001.png", "--out", tmp_path / "again.png")
    assert call(sample.main, *again, "--map", drawn / "b.png") == 0
    assert (tmp_path / "again.png").read_bytes() == (out / "000001.png").read_bytes()
    assert call(sample.main, *told, "--map", drawn / "b.png", "--num", 2, "--out", tmp_path / "grid.png") == 0
    assert json.dumps(read_metadata(tmp_path / "grid.png")["maps"]["shape"]) == "[1, 1, 32, 32]"
    again = ("--cascade", mapped["0"], "--again", tmp_path / "grid.png", "--map", drawn / "b.png")
    assert call(sample.main, *again, "--out", tmp_path / "grid2.png") == 0
    assert (tmp_path / "grid.png").read_bytes() == (tmp_path / "grid2.png").read_bytes()


def test_given_pictures_have_a_map_each(mapped, drawn, pictures, tmp_path):
    (tmp_path / "small").mkdir()
    for k, path in enumerate(sorted((pictures / "shapes").rglob("*.png"))[:3]):
        Image.open(path).resize((8, 8)).save(tmp_path / "small" / f"{k}.png")
    given = ("--cascade", mapped["0"], "--image", tmp_path / "small")
    assert call(sample.main, *given, "--map", drawn, "--out", f"{tmp_path}/each/") == 0
    assert call(sample.main, *given, "--map", drawn / "b.png", "--out", f"{tmp_path}/one/") == 0
    same = [
        bool((read_png(tmp_path / "each" / name) == read_png(tmp_path / "one" / name)).all())
        for name in sorted(path.name for path in (tmp_path / "each").glob("*.png"))
    ]
    assert same == [False, True, False]


def test_without_a_map_only_a_cascade_that_knows_it_samples(mapped, tmp_path, refused):
    assert call(sample.main, "--cascade", mapped["0.2"], "--num", 1, "--out", tmp_path / "none.png") == 0
    message = (
        "request: no map; stage base_8 was given one with every picture of its training (cond.drop is 0); give one"
    )
    assert message in refused(sample.main, "--cascade", mapped["0"], "--out", tmp_path / "none2.png")


def test_what_does_not_suit_is_refused_in_a_line(mapped, trained, drawn, tmp_path, refused):
    Image.new("RGB", (32, 32), "red").save(tmp_path / "red.png")
    Image.new("L", (32, 16)).save(tmp_path / "wide.png")
    Image.new("L", (16, 16)).save(tmp_path / "small.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "no.png").write_text("no picture")
    assert call(sample.main, "--cascade", mapped["0.2"], "--num", 1, "--out", tmp_path / "made.png") == 0
    out = tmp_path / "out.png"
    base = ("--cascade", mapped["0.2"], "--out", out)
    one = drawn / "a.png"
    for says, options in {
        "red.png: a coloured map, this cascade takes gray ones; convert it": ("--map", tmp_path / "red.png"),
        "--map: 32x16 px for a picture of 16x16 px": ("--map", tmp_path / "wide.png"),
        "--map: 32x32 px for a picture of 16x24 px": ("--map", one, "--size", "16x24"),
        f"small.png: 16x16 px, {one} has 32x32 px; give maps of one size": (
            "--map",
            one,
            "--map",
            tmp_path / "small.png",
        ),
        "empty: no picture in it": ("--map", tmp_path / "empty"),
        f"--map {tmp_path / 'gone.png'}: No such file or directory; name a picture": ("--map", tmp_path / "gone.png"),
        "no.png: no ": ("--map", tmp_path / "no.png"),
        "3 maps for 2 descriptions": ("--map", drawn, "--label", 0, "--label", 1),
        "leave --map out": ("--map", one, "--shard-size", 4),
        "made.png: made without a map; leave --map out": ("--again", tmp_path / "made.png", "--map", one),
    }.items():
        assert says in refused(sample.main, *base, *options)
    assert "a map, but this cascade takes none" in refused(
        sample.main, "--cascade", trained, "--map", one, "--out", out
    )
    assert not out.exists()
    with_map = ("--map", one, "--num", 1, "--overwrite", "--out", tmp_path / "made.png")
    assert call(sample.main, "--cascade", mapped["0.2"], *with_map) == 0
    again = ("--again", tmp_path / "made.png")
    assert "made with a map; give that one with --map" in refused(sample.main, *base, *again)
    assert "made with another map" in refused(sample.main, *base, *again, "--map", drawn / "b.png")
