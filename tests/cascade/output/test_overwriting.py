"""What is there already: other requests, files of others, pictures that were given, --overwrite."""

import os
from dataclasses import replace

import pytest
from PIL import Image

from cascade.events import StageFinished
from cascade.output.destinations import output_for
from cascade.output.given import given_files
from cascade.output.saving import save_again, save_one
from cascade.output.upscale import Upscaling
from cascade.pipeline import Cascade
from cascade.request import Request
from tests.cascade.output.files import files, make


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


def test_the_picture_that_is_made_again_is_not_written_over(trained, model, tmp_path):
    for out in ("a/000000.png", "grid.png"):
        place = f"{tmp_path}/{out}".removesuffix("000000.png")
        make(place, model, Request(num=2))
        output = output_for(place, stages=False, overwrite=True)
        with pytest.raises(ValueError, match="was given and would be written over; choose another place"):
            save_again(tmp_path / out, output, trained, [], device="cpu", download=False)
