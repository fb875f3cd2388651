"""From options to a request and from events to files: what sample.py does besides sampling."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from cascade import pipeline
from cascade.cli import class_numbers, numbers_of, parse_size, settings_of, show
from cascade.events import StageFinished
from cascade.output.again import plan_of, repainted, said_of
from cascade.output.bulk import generate
from cascade.output.destinations import output_for, without
from cascade.output.given import given_files
from cascade.output.metadata import describe
from cascade.output.pictures import METADATA_KEY, read_metadata, read_png, save_png, user_picture
from cascade.output.saving import save_again, save_one
from cascade.output.upscale import Upscaling, choose_start, takes_of
from cascade.pipeline import Cascade
from cascade.plan import resolve
from cascade.request import Request
from data.errors import RunError
from stages.config import SampleConfig
from tests.full_disk import full_disk

from .chains import finished, tiny, tiny_config, write_cascade

CLASSES = ("circle", "square", "ring")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with the bundles of base_8 -> sr_16, three classes; not to be changed."""
    return write_cascade(tmp_path_factory.mktemp("trained"), tiny_config(8, 16, classes=3), classes=CLASSES)


@pytest.fixture(scope="module")
def model(trained):
    return Cascade.load(trained)


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def pixels(path: Path) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)


# options


def test_a_bare_value_goes_to_the_stages_it_concerns(model):
    got = settings_of(model, num_steps=["sr_16=4", "8"], guidance_scale=["3"], aug_sigma=["0.1"], sampler=None)
    assert got == {
        "base_8": {"num_steps": "8", "guidance_scale": "3"},
        "sr_16": {"num_steps": "4", "guidance_scale": "3", "aug_sigma": "0.1"},
    }
    assert settings_of(tiny(8, 16), guidance_scale=["3"]) == {"base_8": {}, "sr_16": {}}
    assert settings_of(tiny(8, 16), guidance_scale=["sr_16=3"])["sr_16"] == {"guidance_scale": "3"}


@pytest.mark.parametrize(("key", "flag"), [("num_steps", "--steps"), ("guidance_scale", "--guidance")])
def test_an_option_for_a_stage_that_is_not_there(model, key, flag):
    with pytest.raises(
        ValueError, match=rf"{flag} sr_61=4: no stage 'sr_61', there are base_8, sr_16; did you mean sr_16\?"
    ):
        settings_of(model, **{key: ["sr_61=4"]})


def test_classes_by_name_or_number(model):
    assert class_numbers(model, ["ring", "0", "7"]) == (2, 0, 7)  # the request knows that there is no 7
    with pytest.raises(ValueError, match=r"--label sqare: neither a number nor one of the 3 .*; did you mean square\?"):
        class_numbers(model, ["sqare"])
    with pytest.raises(ValueError, match="--label cat: neither a number nor a name that the bundles know"):
        class_numbers(tiny(8), ["cat"])


def test_stages_that_number_their_classes_differently(model):
    link = model.links[1]
    other = link.sidecar.provenance.model_copy(update={"classes": CLASSES[::-1]})
    changed = replace(link, sidecar=link.sidecar.model_copy(update={"provenance": other}))
    with pytest.raises(
        ValueError, match="stage sr_16 was trained on other classes than base_8; pack the shards of both"
    ):
        Cascade([model.links[0], changed])


@pytest.mark.parametrize(("text", "size"), [("", None), ("192x128", (128, 192)), ("16384x1", (1, 16384))])
def test_sizes_are_written_width_first(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["192", "192x", "x", "0x64", "-1x64", "64x64x64", "1e3x64", "64 x 64", "16385x64", "٣x٣x"]
)
def test_sizes_that_are_none(text):
    with pytest.raises(
        ValueError, match=r"--size .*: write WIDTHxHEIGHT in px, for instance 192x128, at most 16384 a side"
    ):
        parse_size(text)


@pytest.mark.parametrize(("side", "stage"), [(8, "sr_16"), (31, "sr_16"), (32, "sr_64"), (500, "sr_64")])
@pytest.mark.parametrize("fit", [True, False])
def test_a_picture_starts_where_it_loses_least(tmp_path, side, stage, fit):
    folder = write_cascade(tmp_path / "cascade", tiny_config(8, 16, 32, 64))
    (folder / "sr_32" / "bundle").rename(folder / "sr_32" / "elsewhere")  # not trained yet
    assert choose_start(takes_of(folder), (side, side + 5), fit=fit, what="low.png") == stage


def test_a_picture_for_which_there_is_no_stage(trained, tmp_path):
    takes = takes_of(trained)
    assert choose_start(takes, (7, 500), fit=False, what="low.png") == "sr_16"
    with pytest.raises(
        ValueError, match=r"low.png: its shorter side is 7 px, the smallest stage takes 8 px; use a larger"
    ):
        choose_start(takes, (7, 500), fit=True, what="low.png")
    folder = write_cascade(tmp_path / "cascade", tiny_config(8))
    with pytest.raises(ValueError, match="no trained super-resolution stage to give --image to; train one first"):
        takes_of(folder)


@pytest.mark.parametrize(
    ("said", "numbers"), [([], ()), (["3"], (3,)), (["5-7,9", "0"], (5, 6, 7, 9, 0)), ([" 1 - 2"[:2]], (1,))]
)
def test_numbers_of_images(said, numbers):
    assert numbers_of(said) == numbers


def test_more_numbers_than_are_listed():
    for said in (["0-999999999"], ["0-999999", "1000000"], ["1-1000001"]):
        with pytest.raises(ValueError, match=r"--pick.* named; at most (1,000,000|so many)"):
            numbers_of(said)


@pytest.mark.parametrize("said", ["", "a", "3-1", "-1", "1,", "٣"])
def test_numbers_that_are_none(said):
    with pytest.raises(ValueError, match=r"--pick .*: write numbers of images, for instance 3 or 0-15"):
        numbers_of([said])


# places for pictures


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


# files


def test_a_grid_has_a_row_for_each_label(tmp_path, model):
    request = Request(num=3, labels=(0, 2), batch=4)
    output = output_for(str(tmp_path / "new" / "out.png"), stages=True)
    written = list(output.write(model.sample(request), model.resolve(request)))
    assert files(tmp_path) == ["new/out.base_8.png", "new/out.png"]
    assert sorted(written) == [tmp_path / "new" / name for name in ("out.base_8.png", "out.png")]
    sheet = pixels(tmp_path / "new" / "out.png")
    assert sheet.shape == (3, 2 * 18 + 2, 3 * 18 + 2)
    images = finished(model.sample(request))
    assert torch.equal(sheet[:, 2:18, 2:18], images[0])
    assert torch.equal(sheet[:, 20:36, 38:54], images[5])


def test_single_files_come_with_each_chunk(tmp_path, model):
    request = Request(num=5, batch=2)
    output = output_for(f"{tmp_path}/new/", stages=True)
    paths = output.write(model.sample(request), model.resolve(request))
    assert next(paths) == tmp_path / "new" / "000000.base_8.png"
    assert [next(paths).name for _ in range(3)] == ["000001.base_8.png", "000000.png", "000001.png"]
    assert len(files(tmp_path)) == 4
    assert len(list(paths)) == 6
    assert torch.equal(pixels(tmp_path / "new" / "000004.png"), finished(model.sample(request))[4])


@pytest.mark.parametrize("is_grid", [True, False])
@pytest.mark.parametrize("fault", [KeyboardInterrupt, RunError, OSError])
def test_a_fault_while_sampling_keeps_what_is_finished(tmp_path, model, is_grid, fault):
    """And the same request goes on from there, to the bytes of an undisturbed one; chunks that were begun are made whole."""
    request = Request(num=7, batch=2, labels=(1,))

    def interrupted():
        for event in model.sample(request):
            if isinstance(event, StageFinished) and event.last and event.index[0] == 4:
                raise fault("full")
            yield event

    def place(name: str):
        return output_for(f"{tmp_path}/{name}/" + "out.png" * is_grid, stages=False)

    list(place("whole").write(model.sample(request), model.resolve(request)))
    output = place("new")
    with pytest.raises(fault):
        list(output.write(show(interrupted(), request.total), model.resolve(request)))
    kept = [f"{'new/out.parts' if is_grid else 'new'}/{k:06d}.png" for k in range(4)]
    assert [name for name in files(tmp_path) if name.startswith("new")] == kept
    assert output.count(model.resolve(request)) == 4
    (tmp_path / kept[3]).unlink()
    with output.held():
        left = output.claim(model.resolve(request))
        assert list(left) == [2, 3, 4, 5, 6]
        list(output.write(model.sample(model.resolve(request).picked(left)), model.resolve(request)))
        assert output.claim(model.resolve(request)) is None
    names = [name for name in files(tmp_path / "new")]
    assert names == files(tmp_path / "whole")
    assert all((tmp_path / "new" / n).read_bytes() == (tmp_path / "whole" / n).read_bytes() for n in names)


@pytest.mark.parametrize("is_grid", [True, False])
@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"seed": 1}, "seed"),
        ({"labels": (2,)}, "labels"),
        ({"labels": ()}, "labels"),
        ({"settings": {"base_8": {"num_steps": 3}}}, "stages"),
        ({"size": (32, 32)}, "size"),
    ],
)
def test_another_request_is_refused_and_changes_nothing(tmp_path, model, is_grid, changes, key):
    request = Request(num=3, labels=(1,))
    output = output_for(f"{tmp_path}/" + "out.png" * is_grid, stages=False)
    list(output.write(model.sample(request), model.resolve(request)))
    before = {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}
    other = replace(request, **changes)
    with pytest.raises(
        ValueError, match=f"^--out: .* is there and is of a request with other {key}; choose another place"
    ):
        output.claim(model.resolve(other))
    assert before == {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}
    over = replace(output, overwrite=True)
    list(over.write(model.sample(model.resolve(other).picked(over.claim(model.resolve(other)))), model.resolve(other)))
    assert output.claim(model.resolve(other)) is None
    assert all((tmp_path / name).read_bytes() != content for name, content in before.items())


def test_a_shorter_request_does_not_stay_among_pictures_of_a_longer_one(tmp_path, model):
    request = Request(num=2, labels=(0, 1))
    output = output_for(f"{tmp_path}/", stages=False)
    list(output.write(model.sample(request), model.resolve(request)))
    with pytest.raises(ValueError, match="is there and is of a request with other labels"):
        output.claim(model.resolve(Request(num=3, labels=(0, 1))))
    more = Request(num=6, labels=(0,), batch=2)
    for path in tmp_path.glob("00000[23].png"):
        path.unlink()
    assert list(output.claim(model.resolve(more))) == [2, 3, 4, 5]  # the first two are its own


def test_pictures_of_others_are_left_alone(tmp_path, model):
    (tmp_path / "photo.png").write_bytes(b"x")
    output = output_for(f"{tmp_path}/", stages=False, overwrite=True)
    assert list(output.claim(model.resolve(Request(num=2)))) == [0, 1]
    assert files(tmp_path) == ["photo.png"]
    (tmp_path / "000001.png").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"000001.png is there and sample.py did not write it; move it away"):
        output_for(f"{tmp_path}/", stages=False).claim(model.resolve(Request(num=2)))
    (tmp_path / "out.png").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"out.png is there and sample.py did not write it; move it away"):
        output_for(f"{tmp_path}/out.png", stages=False).claim(model.resolve(Request(num=2)))


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["notes.txt", "000000.png", "deep/er.png", ".lock"])
def test_a_folder_of_others_beside_a_grid_is_refused_and_kept(tmp_path, model, name, overwrite):
    path = tmp_path / "out.parts" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"mine")
    with pytest.raises(ValueError, match=r"--out.*: .* is there and .*; move it away, or choose another place"):
        make(f"{tmp_path}/out.png", model, Request(num=2), overwrite=overwrite)
    assert files(tmp_path) == [f"out.parts/{name}"]
    assert path.read_bytes() == b"mine"


def test_a_grid_removes_only_its_own_single_files(tmp_path, model):
    """Pictures of the same request that were not asked for this time stay, and serve the next."""
    request = Request(num=4, batch=2)
    output = output_for(f"{tmp_path}/out.png", stages=False)
    next(output.write(model.sample(model.resolve(request).picked((0, 1, 2, 3))), model.resolve(request), (0, 1, 2, 3)))
    (tmp_path / "out.png").unlink()
    make(f"{tmp_path}/out.parts/", model, request)
    make(f"{tmp_path}/out.png", model, request, pick=(1, 2))
    assert files(tmp_path) == ["out.parts/000000.png", "out.parts/000003.png", "out.png"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_of_others_in_the_way_is_refused_and_one_beside_it_kept(tmp_path, model, overwrite):
    Image.new("RGB", (4, 4)).save(tmp_path / "000005.png")
    os.mkfifo(tmp_path / "000006.png")
    make(f"{tmp_path}/", model, Request(num=2), overwrite=overwrite)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{k:06d}.png" for k in (0, 1, 5, 6)]
    before = {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}
    for num in (6, 7):
        with pytest.raises(ValueError, match=rf"00000{5 if num == 6 else '[56]'}.png is there and sample.py did not"):
            make(f"{tmp_path}/", model, Request(num=num, seed=1), overwrite=True)
        assert before == {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}


@pytest.mark.parametrize("is_grid", [True, False])
def test_overwrite_keeps_the_old_until_the_new_is_whole(tmp_path, model, is_grid, capsys):
    """And goes on where it was; then says what became of the old."""
    out = f"{tmp_path}/" + "out.png" * is_grid
    make(out, model, Request(num=4))
    before = {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}
    request = Request(num=3, seed=1, batch=2)
    output = output_for(out, stages=False, overwrite=True)
    assert list(output.claim(model.resolve(request))) == [0, 1, 2]
    assert before == {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}

    def interrupted():
        for event in model.sample(request):
            if isinstance(event, StageFinished) and event.last and 2 in event.index:
                raise KeyboardInterrupt
            yield event

    with pytest.raises(KeyboardInterrupt):
        list(output.write(interrupted(), model.resolve(request)))
    assert output.count(model.resolve(request)) == 2
    kept = ["out.png"] if is_grid else ["000002.png", "000003.png"]
    assert all((tmp_path / name).read_bytes() == before[name] for name in kept)
    assert list(output.claim(model.resolve(request))) == [2]
    save_one(model, output, model.resolve(request), ())
    told = "1 files were replaced, 0 removed" if is_grid else "1 files were replaced, 1 removed"
    assert f"of another request {told}" in capsys.readouterr().err
    assert files(tmp_path) == (["out.png"] if is_grid else [f"{k:06d}.png" for k in range(3)])


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("out", ["photos/", "photos/a.png", "link/", "again.png"])
def test_what_was_given_is_never_written_over(trained, tmp_path, out, overwrite):
    """Not even what we made, under whatever name of its folder."""
    part = Cascade.load(trained, first="sr_16")
    photo = tmp_path / "photos" / "a.png"
    photo.parent.mkdir()
    (tmp_path / "link").symlink_to(photo.parent)
    make(f"{tmp_path}/base.png", Cascade.load(trained, last="base_8"), Request(num=1))
    photo.write_bytes((tmp_path / "base.png").read_bytes())
    (tmp_path / "seen.png").symlink_to(tmp_path / "again.png")
    (tmp_path / "again.png").write_bytes(photo.read_bytes())
    given = given_files([tmp_path / "seen.png" if out == "again.png" else photo])
    upscaling = Upscaling.of(given, trained, first="", fit=False)
    with pytest.raises(ValueError, match="was given and would be written over; choose another place"):
        upscaling.jobs(part, Request(), output_for(f"{tmp_path}/{out}", stages=False, overwrite=overwrite))


@pytest.mark.parametrize("fit", [False, True])
def test_a_picture_is_resolved_once_and_read_later(tmp_path, trained, monkeypatch, fit):
    """What is wrong with its size is known before; one that has another size by then is refused."""
    resolved = []
    monkeypatch.setattr(pipeline, "resolve", lambda *args, **more: resolved.append(args) or resolve(*args, **more))
    part, photo = Cascade.load(trained, first="sr_16"), tmp_path / "photo.png"
    Image.new("RGB", (25, 10), (30, 200, 30)).save(photo)
    ((_, read),) = Upscaling.of(given_files([photo]), trained, first="sr_16", fit=fit).jobs(
        part, Request(), output_for(f"{tmp_path}/out/", stages=False)
    )
    plan = read()
    assert len(resolved) == 1
    assert plan.sizes == [(16, 40) if fit else (20, 50)]
    assert plan.request.low_res.float().mean((0, 2, 3)).tolist() == [30, 200, 30]
    Image.new("RGB", (11, 10)).save(photo)
    with pytest.raises(ValueError, match=r"photo.png: changed from \d+x\d+ to \d+x\d+ px meanwhile; start again$"):
        read()


def test_a_picture_too_small_for_the_stage_that_was_named_is_told_before_any_is_made(tmp_path, trained):
    for name, side in (("a", 10), ("b", 7)):
        Image.new("RGB", (side, side)).save(tmp_path / f"{name}.png")
    part, files = Cascade.load(trained, first="sr_16"), [tmp_path / "a.png", tmp_path / "b.png"]
    output = output_for(f"{tmp_path}/out/", stages=False)
    jobs = Upscaling.of(given_files(files), trained, first="sr_16", fit=True).jobs(part, Request(), output)
    reads = [read for _, read in jobs]
    assert reads[0]().sizes == [(16, 16)]
    with pytest.raises(
        ValueError, match=r"^--image \S+/b.png: 7x7 px is too small, the stage takes 8 px; use a larger"
    ):
        reads[1]()
    only = Upscaling.of(given_files(files[1:]), trained, first="sr_16", fit=True)
    with pytest.raises(ValueError, match=r"^--image \S+/b.png: 7x7 px is too small"):
        only.jobs(part, Request(), output)


def test_the_picture_that_is_made_again_is_not_written_over(trained, model, tmp_path):
    for out in ("a/000000.png", "grid.png"):
        place = f"{tmp_path}/{out}".removesuffix("000000.png")
        make(place, model, Request(num=2))
        output = output_for(place, stages=False, overwrite=True)
        with pytest.raises(ValueError, match="was given and would be written over; choose another place"):
            save_again(tmp_path / out, output, trained, [], device="cpu", download=False)


def test_a_picture_that_comes_out_another_is_an_error_that_names_the_causes(trained, model, tmp_path):
    make(f"{tmp_path}/a/", model, Request(num=1))
    path, output = tmp_path / "a" / "000000.png", output_for(f"{tmp_path}/b/", stages=False, overwrite=False)
    image = read_png(path)
    image[0, 0, 0] += 3 if image[0, 0, 0] < 128 else -3
    save_png(image, path, read_metadata(path))
    with pytest.raises(
        RunError, match=r"up to 3 levels from .*000000.png: .*number of threads \(set OMP_NUM_THREADS\)"
    ):
        save_again(path, output, trained, [], device="cpu", download=False)
    assert (tmp_path / "b" / "000000.png").exists()


def make(out: str, model: Cascade, request: Request, pick=(), *, overwrite: bool = False) -> None:
    """As sample.py does."""
    output = output_for(out, stages=False, overwrite=overwrite)
    with output.held():
        save_one(model, output, model.resolve(request), pick)


def test_a_billion_images_are_no_list(model):
    """Neither what is asked for nor what is left."""
    request = Request(num=10**9)
    assert len(request.index) == 10**9
    left = without(request.index, set(range(64)), 16)
    assert (left[0], left[-1]) == (64, 10**9 - 1)
    assert len(model.resolve(request).picked(left).index) == 10**9 - 64


def test_the_first_of_a_billion_images_comes_at_once(tmp_path, model):
    request = Request(num=10**9, batch=2)
    output = output_for(f"{tmp_path}/", stages=False)
    paths = output.write(model.sample(request), model.resolve(request))
    assert [next(paths).name for _ in range(3)] == ["000000.png", "000001.png", "000002.png"]
    left = output.claim(model.resolve(request))
    assert (
        next(output.write(model.sample(model.resolve(request).picked(left)), model.resolve(request))).name
        == "000002.png"
    )


def test_progress_where_there_is_no_terminal(capsys, model):
    request = Request(num=3, batch=2)
    assert len(list(show(model.sample(request), request.total))) == len(list(model.sample(request)))
    assert capsys.readouterr().err.splitlines() == [
        f"{stage}: images {first} to {last} of 3 done"
        for first, last in ((0, 1), (2, 2))
        for stage in ("base_8", "sr_16")
    ]


# metadata


@pytest.mark.parametrize("options", [{"labels": (0, 2)}, {"size": (16, 32), "seed": 7}, {}])
@pytest.mark.parametrize("stages", [False, True])
def test_the_metadata_of_a_file_reproduce_its_bytes(model, tmp_path, options, stages):
    """Of whatever row of whatever chunk, and of every stage; said by the metadata alone."""
    settings = {"base_8": {"num_steps": 3, "sampler": "heun"}, "sr_16": {"aug_sigma": 0.25, "guidance_scale": 2.0}}
    request = Request(num=4, batch=3, settings=settings, **options)
    list(output_for(f"{tmp_path}/", stages=stages).write(model.sample(request), model.resolve(request)))
    for path in sorted(tmp_path.glob("*.png")):
        said = said_of(path)
        assert said["stages"]["base_8"]["settings"]["num_steps"] == 3
        asked = plan_of(path, said, model, None)
        save_png(repainted(model, asked, said), tmp_path / "again.png", said)
        assert (tmp_path / "again.png").read_bytes() == path.read_bytes(), path
        asked.picked((said["image"],))  # which is in range


HOSTILE = ["[]", "{", "", "null", "3", "[" * 100_000, '{"a":' * 100_000, "9" * 5000, '{"stages": {}}', "\ud800"]


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("kind", ["png", "json"])
def test_damaged_metadata_are_one_line_with_the_file(tmp_path, text, kind):
    path = tmp_path / f"a.{kind}"
    if kind == "json":
        path.write_text(text, errors="surrogatepass")
    else:
        info = PngInfo()
        info.add_itxt(METADATA_KEY, text.replace("\ud800", "?"))
        Image.new("RGB", (4, 4)).save(path, pnginfo=info)
    with pytest.raises(ValueError, match=r"^[^\n]*/a\.\w+: damaged metadata[^\n]*$"):
        said_of(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("row", [3, 3]),
        ("row", [-1, 3]),
        ("row", [0, 10**9]),
        ("row", [0]),
        ("row", "ab"),
        ("row", [0.5, 1]),
        ("stages", []),
        ("stages", {}),
        ("stages", {"base_8": 3}),
        ("stages", {"base_8": {"bundle": 3, "settings": {}}}),
        ("stage", "other"),
        ("stage", []),
        ("image", -1),
        ("image", True),
        ("num", "3"),
        ("seed", None),
        ("precision", "fp8"),
        ("prompts", [1]),
        ("labels", {}),
        ("size", [1]),
        ("low_res", 3),
        ("pick", ["a"]),
    ],
)
def test_metadata_of_wrong_types_and_ranges_name_file_and_field(model, tmp_path, key, value):
    said = describe(model.resolve(Request(num=3)), 1, (1, 3)) | {key: value}
    save_png(torch.zeros(3, 4, 4, dtype=torch.uint8), tmp_path / "a.png", said)
    with pytest.raises(ValueError, match=rf"^[^\n]*/a\.png: damaged metadata \([^\n]*{key}[^\n]*$"):
        said_of(tmp_path / "a.png")


@pytest.mark.parametrize(
    "changes", [{"image": 10**12}, {"num": 10**12}, {"seed": 2**70}, {"labels": [9]}, {"size": [3, 3]}]
)
def test_metadata_that_ask_what_cannot_be_name_the_file(trained, model, tmp_path, changes):
    said = describe(model.resolve(Request(num=3)), 1, (1, 3)) | changes
    save_png(torch.zeros(3, 4, 4, dtype=torch.uint8), tmp_path / "a.png", said)
    output = output_for(f"{tmp_path}/b.png", stages=False)
    with pytest.raises(ValueError, match=r"^[^\n]*/a\.png: [^\n]*$"):
        save_again(tmp_path / "a.png", output, trained, [], device="cpu", download=False)
    assert files(tmp_path) == ["a.png"]


@pytest.mark.parametrize("read", [said_of, read_metadata, lambda path: given_files([path])])
def test_what_may_never_end_is_not_read(tmp_path, read):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    for name in ("pipe.png", "zero.png"):
        with pytest.raises(ValueError, match=rf"{name}: not a plain file; name one"):
            read(tmp_path / name)
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(5 << 30)
    with pytest.raises(ValueError, match=r"large.png: larger than \d+ MiB; save it smaller"):
        read(tmp_path / "large.png")


def test_the_metadata_of_a_sharpened_picture(trained, tmp_path):
    Image.fromarray(np.arange(3 * 9 * 11, dtype=np.uint8).reshape(9, 11, 3)).save(tmp_path / "low.png")
    Image.new("RGB", (11, 9)).save(tmp_path / "other.png")
    low, other = given_files([tmp_path / "low.png", tmp_path / "other.png"])
    part = Cascade.load(trained, first="sr_16")
    for low_res in (low.pixels, user_picture(low.path, 8, 1)):
        request = Request(num=2, low_res=low_res)
        list(output_for(f"{tmp_path}/new/", stages=False).write(part.sample(request), part.resolve(request)))
        path = tmp_path / "new" / "000001.png"
        said = said_of(path)
        assert said["low_res"]["shape"] == list(low_res.shape[1:])
        assert list(said["stages"]) == ["sr_16"]
        save_png(repainted(part, plan_of(path, said, part, low), said), tmp_path / "again.png", said)
        assert (tmp_path / "again.png").read_bytes() == path.read_bytes()
        with pytest.raises(ValueError, match=r"other.png: not the picture that .*000001.png was made from"):
            plan_of(path, said, part, other)
        with pytest.raises(ValueError, match="made from another picture; give that one with --image"):
            plan_of(path, said, part, None)


def test_metadata_name_the_stages_that_a_picture_went_through(model):
    """A picture of ours that goes on was made by the stages before, too; a user's own was not."""
    held = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    ours = Request(num=2, labels=(1,), low_res=held, pick=(1,), first="sr_16")
    theirs = Request(num=2, labels=(1,), low_res=held, first="sr_16")
    assert list(describe(model.resolve(ours))["stages"]) == ["base_8", "sr_16"]
    assert list(describe(model.resolve(theirs))["stages"]) == ["sr_16"]
    assert list(describe(model.resolve(Request(labels=(1,), last="base_8")))["stages"]) == ["base_8"]


def test_metadata_name_the_bundles_and_stay_json(model):
    said = describe(model.resolve(Request(num=2, seed=4, labels=(1, 0))))
    assert json.loads(json.dumps(said)) == said
    assert said["labels"] == [1, 0]
    assert said["stages"]["base_8"]["bundle"] == model.links[0].sidecar.sha256
    assert said["stages"]["base_8"]["nimg"] == 100
    assert SampleConfig.model_validate(said["stages"]["sr_16"]["settings"]) == model.links[1].settings
