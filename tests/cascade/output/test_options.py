"""From options to a request: settings of stages, classes, sizes, numbers of images, where a picture starts."""

from dataclasses import replace

import pytest
from PIL import Image

from cascade import pipeline
from cascade.cli import class_numbers, numbers_of, parse_size, settings_of
from cascade.output.destinations import output_for, without
from cascade.output.given import given_files
from cascade.output.upscale import Upscaling, choose_start, takes_of
from cascade.pipeline import Cascade
from cascade.plan import resolve
from cascade.request import Request
from tests.cascade.chains import tiny, tiny_config, write_cascade
from tests.cascade.output.files import CLASSES


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
    with pytest.raises(ValueError, match="--invert-label sqare: neither"):
        class_numbers(model, ["sqare"], "--invert-label")


@pytest.mark.parametrize("key", ["consistency", "colour"])
def test_a_correction_by_a_smaller_picture_where_there_is_none(key):
    with pytest.raises(ValueError, match=f"--{key} 1: no stage enlarges a picture to agree with; leave it out"):
        settings_of(tiny(8), **{key: ["1"]})


def test_a_variance_that_no_network_gives():
    request = Request(settings={"base_8": {"sampler": "ddpm", "variance": "learned"}})
    with pytest.raises(
        ValueError, match="stage base_8: variance learned: this network was trained without a variance; choose"
    ):
        tiny(8).resolve(request)
    assert tiny(8).resolve(Request(settings={"base_8": {"sampler": "ddpm"}})).links[0].settings.variance == "small"


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


def test_a_billion_images_are_no_list(model):
    """Neither what is asked for nor what is left."""
    request = Request(num=10**9)
    assert len(request.index) == 10**9
    left = without(request.index, set(range(64)), 16)
    assert (left[0], left[-1]) == (64, 10**9 - 1)
    assert len(model.resolve(request).picked(left).index) == 10**9 - 64
