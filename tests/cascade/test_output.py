"""From options to a request and from events to files: what sample.py does besides sampling."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cascade.cli import choose_start, class_numbers, parse_size, settings_of, show
from cascade.events import StageFinished
from cascade.output import describe, output_for
from cascade.pictures import read_metadata
from cascade.pipeline import Cascade
from cascade.request import Request
from stages.config import SampleConfig

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
def test_a_picture_starts_where_it_loses_least(tmp_path, side, stage):
    folder = write_cascade(tmp_path / "cascade", tiny_config(8, 16, 32, 64))
    path = tmp_path / "low.png"
    Image.new("RGB", (side + 5, side)).save(path)
    (folder / "sr_32" / "bundle").rename(folder / "sr_32" / "elsewhere")  # not trained yet
    assert choose_start(folder, path) == stage


def test_a_picture_for_which_there_is_no_stage(trained, tmp_path):
    path = tmp_path / "low.png"
    Image.new("RGB", (500, 7)).save(path)
    with pytest.raises(
        ValueError, match=r"low.png: its shorter side is 7 px, the smallest stage takes 8 px; use a larger"
    ):
        choose_start(trained, path)
    folder = write_cascade(tmp_path / "cascade", tiny_config(8))
    with pytest.raises(ValueError, match="no trained super-resolution stage to give --image to; train one first"):
        choose_start(folder, path)


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


def test_a_place_that_turns_out_not_to_be_writable(model):
    output = output_for("/proc/pictures/", stages=False)
    with pytest.raises(
        ValueError, match=r"--out /proc/pictures: /proc/pictures cannot be made \(.*\); choose another place"
    ):
        output.write(iter(()), model, Request())


# files


def test_a_grid_has_a_row_for_each_label(tmp_path, model):
    request = Request(num=3, labels=(0, 2), batch=4)
    output = output_for(str(tmp_path / "new" / "out.png"), stages=True)
    written = list(output.write(model.sample(request), model, request))
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
    paths = output.write(model.sample(request), model, request)
    assert next(paths) == tmp_path / "new" / "000000.base_8.png"
    assert [next(paths).name for _ in range(3)] == ["000001.base_8.png", "000000.png", "000001.png"]
    assert len(files(tmp_path)) == 4
    assert len(list(paths)) == 6
    assert torch.equal(pixels(tmp_path / "new" / "000004.png"), finished(model.sample(request))[4])


@pytest.mark.parametrize("is_grid", [True, False])
def test_a_fault_while_sampling_leaves_no_half_file(tmp_path, model, is_grid):
    request = Request(num=4, batch=2)

    def interrupted():
        for event in model.sample(request):
            if isinstance(event, StageFinished) and event.index[0] == 2:
                raise KeyboardInterrupt
            yield event

    output = output_for(f"{tmp_path}/new/" + "out.png" * is_grid, stages=False)
    with pytest.raises(KeyboardInterrupt):
        list(output.write(show(interrupted(), request.total), model, request))
    assert files(tmp_path) == ([] if is_grid else ["new/000000.png", "new/000001.png"])


def test_progress_where_there_is_no_terminal(capsys, model):
    request = Request(num=3, batch=2)
    assert len(list(show(model.sample(request), request.total))) == len(list(model.sample(request)))
    assert capsys.readouterr().err.splitlines() == [
        f"{stage}: images {first} to {last} of 3 done"
        for first, last in ((0, 1), (2, 2))
        for stage in ("base_8", "sr_16")
    ]


# metadata


def again(folder: Path, said: dict, **given) -> torch.Tensor:
    """The picture that a single file's metadata describes, made anew."""
    model = Cascade.load(
        folder, first=next(iter(said["stages"])), last=list(said["stages"])[-1], precision=said["precision"]
    )
    request = Request(
        num=said["image"] + 1,
        seed=said["seed"],
        labels=tuple(said.get("labels", ())),
        size=tuple(said["size"]) if "size" in said else None,
        settings={name: stage["settings"] for name, stage in said["stages"].items()},
        **given,
    )
    return finished(model.sample(request))[said["image"]]


@pytest.mark.parametrize("options", [{"labels": (0, 2)}, {"size": (16, 32), "seed": 7}])
def test_the_metadata_of_a_file_make_the_same_picture_again(trained, model, tmp_path, options):
    settings = {"base_8": {"num_steps": 3, "sampler": "heun"}, "sr_16": {"aug_sigma": 0.25, "guidance_scale": 2.0}}
    request = Request(num=3, settings=settings, **options)
    list(output_for(f"{tmp_path}/", stages=False).write(model.sample(request), model, request))
    for path in sorted(tmp_path.glob("*.png"))[-2:]:
        said = read_metadata(path)
        assert said["stages"]["base_8"]["settings"]["num_steps"] == 3
        assert (again(trained, said).int() - pixels(path).int()).abs().max() <= 1  # another batch size rounds otherwise


def test_the_metadata_of_a_sharpened_picture(trained, model, tmp_path):
    low_res = (torch.arange(3 * 8 * 8) % 256).to(torch.uint8).reshape(1, 3, 8, 8)
    part = Cascade.load(trained, first="sr_16")
    request = Request(num=2, low_res=low_res)
    list(output_for(f"{tmp_path}/", stages=False).write(part.sample(request), part, request))
    said = read_metadata(tmp_path / "000001.png")
    assert said["low_res"]["shape"] == [3, 8, 8]
    assert list(said["stages"]) == ["sr_16"]
    got = again(trained, said, low_res=low_res)
    assert (got.int() - pixels(tmp_path / "000001.png").int()).abs().max() <= 1


def test_metadata_name_the_bundles_and_stay_json(model):
    said = describe(model, Request(num=2, seed=4, labels=(1, 0)))
    assert json.loads(json.dumps(said)) == said
    assert said["labels"] == [1, 0]
    assert said["stages"]["base_8"]["bundle"] == model.links[0].sidecar.sha256
    assert said["stages"]["base_8"]["nimg"] == 100
    assert SampleConfig.model_validate(said["stages"]["sr_16"]["settings"]) == model.links[1].settings
