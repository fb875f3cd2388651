"""Sides of a vote: folders with what users leave in them, and stores of servers."""

import time

import pytest
import torch

from cascade.judge.vote.sides import load_side
from cascade.output.pictures import save_png
from cascade.serve.jobs.store import JobRow, Store
from tests.judge.vote.files import fill


def test_a_broken_file_is_named_and_left_out(tmp_path):
    folder = fill(tmp_path / "a", ["1", "2"], seed=1)
    (folder / "3.png").write_bytes(b"no picture")
    (folder / "4.png").write_bytes((folder / "1.png").read_bytes()[:60])
    (folder / "notes.txt").write_text("not read")
    notes = []
    side = load_side(str(folder), notes.append)
    assert [each.name for each in side.pictures] == ["1", "2"]
    assert len(side.broken) == len(notes) == 2
    assert notes[0].startswith(f"{folder / '3.png'} is left out: no JPEG, PNG")


def test_two_names_that_differ_in_their_suffix_only_are_told(tmp_path):
    folder = fill(tmp_path / "a", ["1"], seed=1)
    (folder / "1.jpg").write_bytes((folder / "1.png").read_bytes())
    assert len(load_side(str(folder)).broken) == 1


def test_captions_are_those_of_the_table_else_of_sample_py(tmp_path):
    folder = fill(tmp_path / "a", ["1"], seed=1, captions=["a cat"])
    save_png(
        torch.zeros(3, 8, 8, dtype=torch.uint8), folder / "2.png", {"prompts": ["a dog"], "image": 0, "stages": {}}
    )
    save_png(torch.zeros(3, 8, 8, dtype=torch.uint8), folder / "3.png", {"prompts": ["a", "grid"], "stages": {}})
    assert [each.caption for each in load_side(str(folder)).pictures] == ["a cat", "a dog", ""]


def test_the_hash_is_of_names_captions_and_contents(tmp_path):
    hashes = {
        load_side(str(fill(tmp_path / str(i), names, seed=seed, captions=captions))).sha256
        for i, (names, seed, captions) in enumerate(
            [(["1"], 1, None), (["2"], 1, None), (["1"], 2, None), (["1"], 1, ["a"]), (["1"], 1, None)]
        )
    }
    assert len(hashes) == 4


def test_a_store_is_read_beside_its_server(tmp_path):
    store = Store(tmp_path / "store")
    for name, state in (("one", "finished"), ("two", "finished"), ("three", "failed")):
        request = {"prompts": ["a cat", "a dog"], "num": 1}
        store.add_job(JobRow(id=name, owner="", state=state, created=time.time(), parent="", request=request))
        for stage, side in (("base", 4), ("sr", 8)):
            for k in range(2):
                picture = torch.full((3, side, side), 10 * k + len(name), dtype=torch.uint8)
                store.add_picture(name, stage, k, (side, side), lambda path, p=picture: save_png(p, path, {}))
    side = load_side(str(tmp_path / "store"))
    told = [(each.name, each.caption) for each in side.pictures]
    assert told == [("one/0", "a cat"), ("one/1", "a dog"), ("two/0", "a cat"), ("two/1", "a dog")]
    assert {each.path.parent for each in side.pictures} == {tmp_path / "store" / "pictures"}
    assert [each.name for each in load_side(f"{tmp_path / 'store'}:two").pictures] == ["two/0", "two/1"]
    with pytest.raises(ValueError, match="no picture to vote on: there is none"):
        load_side(f"{tmp_path / 'store'}:none")
    store.close()


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda path: None, "is not there; name a folder"),
        (lambda path: path.write_text("x"), "is a file; name a folder"),
        (lambda path: path.mkdir(), "no picture to vote on: there is none"),
        (lambda path: (path.mkdir(), (path / "index.sqlite").write_text("x")), "no index of a server's store"),
    ],
)
def test_what_is_no_side_is_one_line(tmp_path, make, told):
    make(tmp_path / "side")
    with pytest.raises(ValueError, match=told):
        load_side(str(tmp_path / "side"))


def test_a_broken_line_of_captions_is_named(tmp_path):
    folder = fill(tmp_path / "a", ["1"], seed=1, captions=["a cat"])
    (folder / "metadata.jsonl").write_text('{"file_name": "1.png"}\n[]\n')
    with pytest.raises(ValueError, match=r"metadata\.jsonl line 2 is no JSON with a file_name"):
        load_side(str(folder))
