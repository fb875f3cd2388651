"""sample.py from end to end: grids, single files, picks, the same picture again."""

import socket

import sample
from cascade.output.pictures import levels_apart, read_metadata, read_png
from tests.calling import call
from tests.commands.files import files, replace_weights, size_of


def test_pictures_from_the_command_line(trained, tmp_path, capsys):
    arguments = (
        "--cascade",
        trained,
        "--num",
        3,
        "--label",
        "ring",
        "--label",
        "0",
        "--steps",
        "sr_16=1",
        "--batch",
        4,
    )
    assert call(sample.main, *arguments, "--out", tmp_path / "grid.png") == 0
    assert capsys.readouterr().out.splitlines() == [str(tmp_path / "grid.png")]
    assert size_of(tmp_path / "grid.png") == (3 * 18 + 2, 2 * 18 + 2)
    assert call(sample.main, *arguments, "--out", f"{tmp_path}/single/", "--stages-out") == 0
    assert files(tmp_path / "single") == sorted(f"{k:06d}{s}.png" for k in range(6) for s in ("", ".base_8"))
    said = read_metadata(tmp_path / "single" / "000003.png")
    assert said["labels"] == [0]
    assert said["stages"]["sr_16"]["settings"]["num_steps"] == 1


def test_the_same_command_twice_and_another_one(trained, tmp_path, capsys, refused):
    for place in ("out.png", "new/"):
        arguments = ("--cascade", trained, "--num", 3, "--out", f"{tmp_path}/{place}")
        assert call(sample.main, *arguments) == 0
        before = {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}
        capsys.readouterr()
        assert call(sample.main, *arguments) == 0
        said = capsys.readouterr()
        assert (said.out, said.err) == ("", "nothing to do: all 3 images are there\n")
        line = refused(sample.main, *arguments, "--seed", 1)
        assert "is there and is of a request with other seed; choose another place, or --overwrite" in line
        assert before == {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}
        assert call(sample.main, *arguments, "--seed", 1, "--overwrite") == 0
        assert before.keys() == set(files(tmp_path))
        assert before != {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}


def test_picked_pictures_are_those_of_the_whole_request(trained, tmp_path, refused):
    arguments = ("--cascade", trained, "--num", 4, "--label", "ring", "--label", 0)
    assert call(sample.main, *arguments, "--out", f"{tmp_path}/all/") == 0
    assert call(sample.main, *arguments, "--pick", "2,5-6", "--out", f"{tmp_path}/some/") == 0
    assert files(tmp_path / "some") == ["000002.png", "000005.png", "000006.png"]
    for name in files(tmp_path / "some"):
        assert levels_apart(read_png(tmp_path / "some" / name), read_png(tmp_path / "all" / name)) <= 1
    assert call(sample.main, *arguments, "--pick", "2,5-6", "--out", tmp_path / "some.png") == 0
    assert size_of(tmp_path / "some.png") == (2 * 18 + 2, 2 * 18 + 2)
    assert "pick 8 is out of range; 0 to 7 are there" in refused(sample.main, *arguments, "--pick", 8)


def test_a_picture_and_a_grid_again(trained, tmp_path, refused, folder):
    arguments = ("--cascade", trained, "--num", 5, "--label", "ring", "--label", 0, "--guidance", 3, "--batch", 3)
    assert call(sample.main, *arguments, "--out", f"{tmp_path}/all/", "--stages-out") == 0
    assert call(sample.main, *arguments, "--out", tmp_path / "grid.png") == 0
    for number, name in enumerate(("all/000007.png", "all/000004.base_8.png", "grid.png")):
        again = ("--cascade", trained, "--again", tmp_path / name, "--out", tmp_path / f"{number}.png")
        assert call(sample.main, *again) == 0
        assert (tmp_path / f"{number}.png").read_bytes() == (tmp_path / name).read_bytes()
    again = ("--cascade", trained, "--again", tmp_path / "all/000007.png", "--out", tmp_path / "0.png")
    assert "0.png: is there; choose another place, or --overwrite" in refused(sample.main, *again)
    replace_weights(folder / "sr_16" / "bundle", lambda weights: weights["net.out_gain"].add_(1))
    again = ("--cascade", folder, "--again", tmp_path / "all/000007.png", "--out", tmp_path / "new.png")
    assert "name the cascade that made it with --cascade" in refused(sample.main, *again)


def test_only_the_first_stages(trained, tmp_path):
    assert call(sample.main, "--cascade", trained, "--until", "base_8", "--num", 1, "--out", f"{tmp_path}/a/") == 0
    assert size_of(tmp_path / "a" / "000000.png") == (8, 8)


def test_the_cascade_that_ships_paints_a_prompt_without_home_or_network(tmp_path, monkeypatch):
    """Its text encoder is the one that is installed, its bundles fit, and nothing is fetched."""

    def refuse(*args):
        raise AssertionError("reached for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.delenv("HOME", raising=False)
    arguments = ("--num", 1, "--steps", 2, "--out", f"{tmp_path}/new/")
    assert call(sample.main, "red heart", "green apple", *arguments) == 0
    assert size_of(tmp_path / "new" / "000001.png") == (256, 256)
    assert read_metadata(tmp_path / "new" / "000001.png")["prompts"] == ["green apple"]
