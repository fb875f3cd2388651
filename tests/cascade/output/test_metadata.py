"""The metadata of a picture: they reproduce its bytes; damaged or absurd ones are refused in one line."""

import json
import os

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from cascade.output.again import plan_of, repainted, said_of
from cascade.output.destinations import output_for
from cascade.output.given import given_files
from cascade.output.metadata import describe
from cascade.output.pictures import METADATA_KEY, read_metadata, read_png, save_png, user_picture
from cascade.output.saving import save_again
from cascade.pipeline import Cascade
from cascade.request import Request
from data.errors import RunError
from stages.config import SampleConfig
from tests.cascade.output.files import files, make


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
    for low_res in (low.pixels(3), user_picture(low.path, 8, 1)):
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
