"""The halves of a split: stated by the data or by hash of the key; together they are the split, and they do not overlap."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from cascade.judge.halves import DEV, HASHED, STATED, TEST, half_of, portions, read_half
from data.index import load as index_of
from data.pack.packer import pack
from data.pack.settings import PackSettings
from data.shapes import write_folder


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("shapes"), 60, 16)


def packed(source, folder, **rows):
    """60 shapes, half of them in val; rows: what stands in the table for every second picture, and for the others."""
    copy = shutil.copytree(source, folder / "source")
    table = copy / "metadata.jsonl"
    lines = [json.loads(line) for line in table.read_text().splitlines()]
    for number, line in enumerate(lines):
        if (half := rows.get("even" if number % 2 == 0 else "odd")) is not None:
            line["half"] = half
    table.write_text("\n".join(json.dumps(line) for line in lines) + "\n")
    pack(copy, folder / "shards", PackSettings(size=16, val=0.5, shards=2), workers=0)
    return str(folder / "shards")


def test_by_hash_they_are_the_split(source, tmp_path):
    data = packed(source, tmp_path)
    dev, test = (read_half(data, "val", half, resolution=16, label=True) for half in (DEV, TEST))
    assert dev.how == test.how == HASHED
    assert not set(dev.pictures.keys) & set(test.pictures.keys)
    assert len(dev.pictures) + len(test.pictures) == dev.total == index_of(Path(data)).num_images["val"]
    assert all(half_of(key) == DEV for key in dev.pictures.keys)
    assert min(len(dev.pictures), len(test.pictures)) > 5
    again = torch.cat([part.image for part in portions(dev.pictures, 4)])
    assert torch.equal(again, dev.pictures.image)
    assert len(dev.pictures.cond) == len(dev.pictures)


def test_fewer_are_a_part_that_does_not_depend_on_the_order(source, tmp_path):
    data = packed(source, tmp_path)
    whole, few = (read_half(data, "val", DEV, resolution=16, num=num) for num in (0, 5))
    assert len(few.pictures) == 5
    assert set(few.pictures.keys) < set(whole.pictures.keys)
    for key, image in zip(few.pictures.keys, few.pictures.image, strict=True):
        assert torch.equal(image, whole.pictures.image[whole.pictures.keys.index(key)])


def test_what_the_data_state_holds(source, tmp_path):
    data = packed(source, tmp_path, even="dev", odd="test")
    dev, test = (read_half(data, "val", half, resolution=16) for half in (DEV, TEST))
    assert dev.how == test.how == STATED
    numbers = [[int("".join(filter(str.isdigit, key))) % 2 for key in half.pictures.keys] for half in (dev, test)]
    assert len(set(numbers[0])) == len(set(numbers[1])) == 1
    assert numbers[0][0] != numbers[1][0]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"even": "dev"}, r"its half must be dev or test, \d+ of \d+ have one"),
        ({"even": "dev", "odd": "train"}, "its half must be dev or test, 'train' is stated"),
        ({"even": "test", "odd": "test"}, r"no picture of split val is in its dev half \(\d+ in all\)"),
    ],
)
def test_what_cannot_be_halved_is_one_line(source, tmp_path, rows, message):
    with pytest.raises(ValueError, match=message):
        read_half(packed(source, tmp_path, **rows), "val", DEV, resolution=16)
