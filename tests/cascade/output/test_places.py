"""Where pictures go: grid or folder, places that cannot be written, names that are too long, a full disk."""

import re
import subprocess
import sys

import pytest
from PIL import Image

from cascade.output.bulk import generate
from cascade.output.destinations import output_for
from cascade.output.given import given_files
from cascade.output.upscale import Upscaling
from cascade.pipeline import Cascade
from cascade.request import Request
from tests.cascade.output.files import files, make
from tests.full_disk import full_disk


@pytest.mark.parametrize(
    ("out", "is_grid"), [("a.png", True), ("new/a.PNG", True), ("new", False), ("new.d/", False), ("a.png/", False)]
)
def test_a_png_is_a_grid_and_a_folder_holds_single_files(tmp_path, monkeypatch, out, is_grid):
    monkeypatch.chdir(tmp_path)
    assert output_for(out, stages=False).is_grid == is_grid
    assert not list(tmp_path.iterdir())  # made when there is something to write


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("a.jpg", "write a name in .png for a grid, or a folder/ for single files"),
        ("file/a.png", "file is a file; choose another place"),
        ("file/", "file is a file; choose another place"),
        ("file/deep/er/", "file is a file; choose another place"),
    ],
)
def test_places_that_cannot_be_written(tmp_path, out, message):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=rf"^--out [^\n]*{message}$"):
        output_for(f"{tmp_path}/{out}", stages=False)


def test_a_place_that_turns_out_not_to_be_writable():
    output = output_for("/proc/pictures/", stages=False)
    with (
        pytest.raises(
            ValueError, match=r"--out /proc/pictures: /proc/pictures cannot be made \(.*\); choose another place"
        ),
        output.held(),
    ):
        pass


@pytest.mark.parametrize(
    ("name", "num_bytes"),
    [("x" * 256 + ".png", 260), ("x" * 250 + ".png", 256), ("x" * 300 + "/", 300), ("ü" * 128, 256)],
)
def test_a_name_that_is_too_long_is_refused_before_any_work(tmp_path, name, num_bytes):
    """Both what was given and what would be made of it are told."""
    with pytest.raises(
        ValueError,
        match=rf"--out .*: .* would be {num_bytes} bytes long, at most 255 are allowed: .* too long; choose a",
    ) as told:
        output_for(f"{tmp_path}/{name}", stages=False)
    assert name[-10:] in str(told.value)


def test_a_path_that_is_too_long(tmp_path):
    with pytest.raises(ValueError, match=r"the path would be \d+ bytes long, at most 4095 are allowed"):
        output_for(f"{tmp_path}/{'x' * 200}" + "/deeper" * 700 + "/", stages=False)


def test_names_of_stages_and_of_given_pictures_that_become_too_long(tmp_path, model, trained):
    output = output_for(f"{tmp_path}/{'x' * 245}.png", stages=True)
    with pytest.raises(ValueError, match=r"base_8.png would be 256 bytes long, at most 255"):
        output.claim(model.resolve(Request(num=2)))
    part = Cascade.load(trained, first="sr_16")
    Image.new("RGB", (8, 8)).save(tmp_path / f"{'y' * 251}.png")
    upscaling = Upscaling.of(given_files([tmp_path / f"{'y' * 251}.png"]), trained, first="", fit=False)
    out = output_for(f"{tmp_path}/new/", stages=False)
    assert len(upscaling.jobs(part, Request(), out)) == 1
    with pytest.raises(ValueError, match=r"000001.png would be 262 bytes long, at most 255"):
        upscaling.jobs(part, Request(num=2), out)


@pytest.mark.parametrize("what", ["folder", "grid", "shards", "lock"])
def test_a_full_disk_is_told_with_path_and_free_space_and_loses_nothing(tmp_path, trained, what):
    """Single files, a grid, shards; and the very first byte."""
    out = {"grid": "new/out.png"}.get(what, "new/")
    bytes_, num = {"folder": (900, 40), "grid": (20_000, 400), "shards": (12_000, 40), "lock": (0, 2)}[what]
    model, request = Cascade.load(trained), Request(num=num, batch=2)
    if what == "folder":
        make(f"{tmp_path}/new/", model, Request(num=2, batch=2))
        size = max(path.stat().st_size for path in (tmp_path / "new").iterdir())
        bytes_ = size - 200
    told = ""
    with full_disk(bytes_):
        try:
            if what == "shards":
                list(generate(model, request, tmp_path / "new", shard_size=200))
            else:
                make(f"{tmp_path}/{out}", model, request)
        except ValueError as error:
            told = str(error)
    wanted = (
        r"\S*/new/\S*: cannot be written \(File too large; [\d,.]+ MB are free there\); what is finished stays: make room, "
        "and the same command goes on from there"
    )
    assert re.fullmatch(wanted, told), told
    left = files(tmp_path / "new") if (tmp_path / "new").exists() else []
    assert len(left) == {"folder": 2, "grid": 400, "shards": 1, "lock": 0}[what], left
    if what == "shards":
        assert left == ["request.json"]


def test_a_name_that_is_just_short_enough(tmp_path, model):
    request = Request(num=2)
    output = output_for(f"{tmp_path}/{'x' * 245}.png", stages=False)
    assert [len(path.name) for path in output.write(model.sample(request), model.resolve(request))] == [249]


def test_two_at_once_in_one_place(tmp_path):
    for name in ("new/", "a.png"):
        output = output_for(f"{tmp_path}/{name}", stages=False)
        with output.held():
            done = subprocess.run(
                [sys.executable, "-c", HOLD, f"{tmp_path}/{name}"], capture_output=True, text=True, check=False
            )
        assert 'another process works there ({"host": ' in done.stderr
    assert files(tmp_path) == []


HOLD = """
import sys
from pathlib import Path
from data.files import held
path = Path(sys.argv[1])
with held((path if sys.argv[1].endswith("/") else path.with_suffix(".parts")) / ".lock", "--out"):
    pass
"""
