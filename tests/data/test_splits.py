"""Which names mean a split, and which only look so."""

import pytest

from data.index.splits import split_named, split_of


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("imagenet1k-validation-00.tar", "val"),
        ("data/validation-00000-of-00002.tar", "val"),
        ("validation/00000.tar", "val"),
        ("val/train-00000.tar", "train"),  # the nearest word
        ("sub/dev_00000.tar", "val"),
        ("cc3m-TEST-3.tar", "test"),
        ("val2017.tar", "val"),
        ("00000.tar", "train"),
        ("train-00000.tar", "train"),
        ("valley-00000.tar", "train"),
        ("data/contest/latest-0.tar", "train"),
        ("trainval/devices-0.tar", "train"),
    ],
)
def test_a_word_for_a_split_stands_between_separators(path, split):
    assert split_of(path) == split


def test_a_shard_of_two_splits_is_refused():
    with pytest.raises(ValueError, match=r"x/train-val-0\.tar names the splits train and val; rename it"):
        split_of("x/train-val-0.tar")


@pytest.mark.parametrize(
    ("name", "split"),
    [("train", "train"), ("Valid", "val"), ("train2017", "train"), ("dev_1", "val"), ("test", "test"),
     ("test drive", None), ("trainers", None), ("2017", None), ("", None)],
)  # fmt: skip
def test_a_folder_is_a_split_if_that_is_its_whole_name(name, split):
    assert split_named(name) == split
