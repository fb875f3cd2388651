"""Several data sets as one: shares by weight, agreement, one fingerprint, one size."""

from collections import Counter
from fractions import Fraction
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from data.index import Index, TextInfo, load, save
from data.pack.packer import pack
from data.pack.settings import PackSettings
from data.read.mixture import Mixture, Opened, facts, fits, largest_remainder, parse
from data.read.shards import Reader, read_split

from .conftest import SIDE, make_tar, png, reindex, stand_in


def colored(folder, color, num_shards=8, num=4, size=(SIDE, SIDE), first="train"):
    """Shards of pictures of one colour."""
    for s in range(num_shards):
        name = folder.name
        make_tar(folder / f"{first}-{s:05d}.tar", [(f"{name}-{s}-{k}.png", png(color, size)) for k in range(num)])
    reindex(folder)
    return folder


@pytest.fixture(scope="module")
def red_and_blue(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixture")
    return colored(folder / "red", (255, 0, 0)), colored(folder / "blue", (0, 0, 255))


def edited(folder, **changes) -> None:
    save(load(folder).model_copy(update=changes), folder)


# weights on the command line


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("A", ("A", 1.0)),
        ("B=0.25", ("B", 0.25)),
        ("a=b/c=2", ("a=b/c", 2.0)),
        ("a=b", ("a=b", 1.0)),
        ("https://h/x?token=abc", ("https://h/x?token=abc", 1.0)),
        ("https://h/x?token=abc=3", ("https://h/x?token=abc", 3.0)),
        ("pipe:cat {}=1e-1", ("pipe:cat {}", 0.1)),
    ],
)
def test_a_weight_is_what_follows_the_last_equals_sign(text, part):
    assert parse([text, "Z"]).parts == (part, ("Z", 1.0))


def test_a_folder_called_like_a_weight_is_a_folder(tmp_path):
    (tmp_path / "size=64").mkdir()
    assert parse([f"{tmp_path}/size=64"]).parts == ((f"{tmp_path}/size=64", 1.0),)


@pytest.mark.parametrize("text", ["A=0", "A=-1", "A=inf", "A=nan", "A=1.2.3"])
def test_weights_that_cannot_be(text):
    with pytest.raises(ValueError, match=r"data A.*weight"):
        parse([text])
    with pytest.raises(ValueError, match="no data"):
        parse([])


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=6), st.integers(1, 64))
def test_largest_remainder_is_within_one_of_the_quota(weights, num):
    counts = largest_remainder(weights, num)
    assert sum(counts) == num
    assert all(abs(c - Fraction(w * num, sum(weights))) < 1 for c, w in zip(counts, weights, strict=True))


def test_shares_far_from_the_weights_are_refused_with_a_number_that_does(red_and_blue):
    opened = Opened.of([(red_and_blue[0], 0.7), (red_and_blue[1], 0.3)])
    assert opened.shares(10) == [7, 3]
    with pytest.raises(
        ValueError, match=r"4 streams .* within 10%: .*red 0.7 -> 3/4, .*blue 0.3 -> 1/4; set streams=7"
    ) as e:
        opened.shares(4)
    assert fits((0.7, 0.3), largest_remainder((0.7, 0.3), 7))
    assert not any(fits((0.7, 0.3), largest_remainder((0.7, 0.3), num)) for num in (4, 5, 6))
    assert "\n" not in str(e.value)
    with pytest.raises(ValueError, match="no number of streams up to 4096 does"):
        Opened.of([(red_and_blue[0], 1), (red_and_blue[1], 1e-9)]).shares(8)


def test_the_fix_for_a_mixture_fits_batch_weights_and_shards(red_and_blue):
    """7 streams of 3 and 4 shards would do for the weights, but 16 images have no seventh."""
    source = [(red_and_blue[0], 0.7), (red_and_blue[1], 0.3)]
    with pytest.raises(ValueError, match=r"4 streams cannot.*; set streams=7 and batch=14$"):
        Reader(places=source, batch=16, resolution=SIDE, streams=4)
    assert Reader(places=source, batch=14, resolution=SIDE, streams=7).own()
    with pytest.raises(ValueError, match=r"4 streams cannot.*; set streams=10$"):
        Reader(places=source, batch=20, resolution=SIDE, streams=4)


# mixed batches


def mixture(red_and_blue):
    return Mixture(((red_and_blue[0], 3.0), (red_and_blue[1], 1.0)))


def test_each_global_batch_has_the_weights(red_and_blue):
    reader = Reader(places=mixture(red_and_blue), batch=16, resolution=SIDE, streams=8, block=3)
    for batch in islice(reader.batches(), 8):
        assert Counter(key.partition("-")[0] for key in batch.keys) == {"red": 12, "blue": 4}
        for key, image in zip(batch.keys, batch.image, strict=True):
            assert image[:, 0, 0].tolist() == ([255, 0, 0] if key.startswith("red") else [0, 0, 255])


def test_each_set_gives_each_picture_once_per_epoch_of_its_own(red_and_blue):
    reader = Reader(places=mixture(red_and_blue), batch=8, resolution=SIDE, streams=8, block=3)
    keys = [key for batch in islice(reader.batches(), 16) for key in batch.keys]
    blue = [key for key in keys if key.startswith("blue")]
    assert len(blue) == 32
    assert len(set(blue)) == 32
    counts = Counter(key for key in keys if key.startswith("red"))
    assert sum(counts.values()) == 96
    assert len(counts) == 32
    assert set(counts.values()) <= {2, 3, 4}


def test_one_data_set_reads_as_it_did_whatever_its_weight(packed):
    how = {"batch": 16, "resolution": SIDE, "block": 5}
    for source in ((packed, 0.3), [(packed, 2)], Mixture(((packed, 1.0),))):
        got = [b.keys for b in islice(Reader(places=source, **how).batches(), 6)]
        assert got == [b.keys for b in islice(Reader(places=packed, **how).batches(), 6)]
        assert Reader(places=source, **how).index == load(packed)


def test_different_sizes_come_at_the_resolution(red_and_blue, tmp_path):
    large = colored(tmp_path / "green", (0, 255, 0), size=(40, 30))
    source = [(red_and_blue[0], 1), (large, 1)]
    batch = next(Reader(places=source, batch=8, resolution=20).batches())
    assert batch.image.shape == (8, 3, 20, 20)
    assert facts(source).size is None
    assert facts(source).min_side == SIDE
    (rest,) = {b.image.shape[1:] for b in read_split(source, "train", batch=5, resolution=20)}
    assert rest == (3, 20, 20)
    with pytest.raises(ValueError, match=r"red: pictures are 24 px, 30 px are needed"):
        Reader(places=source, batch=8, resolution=30)


def test_too_few_shards_for_a_share(red_and_blue, tmp_path):
    few = colored(tmp_path / "few", (1, 1, 1), num_shards=2)
    with pytest.raises(
        ValueError, match=r"few has 2 train shards, 4 streams are asked for; pack again with --shards 4"
    ):
        Reader(places=[(red_and_blue[0], 1), (few, 1)], batch=8, resolution=SIDE)


# facts


def test_the_fingerprint_covers_data_and_weights_but_not_their_scale(red_and_blue):
    red, blue = red_and_blue
    prints = [facts(s).fingerprint for s in ([(red, 1), (blue, 1)], [(red, 1), (blue, 2)], [(blue, 1), (red, 1)])]
    assert len({*prints, load(red).fingerprint, load(blue).fingerprint}) == 5
    assert facts([(red, 3), (blue, 6)]).fingerprint == prints[1]


def test_facts_of_a_mixture_add_up(packed, red_and_blue):
    index = facts([(packed, 1), (red_and_blue[0], 1)])
    assert isinstance(index, Index)
    assert index.num_images == {"train": 96 + 32}
    assert len(index.shards) == 16
    assert (index.size, index.classes, index.text_encoder) == ((SIDE, SIDE), None, None)
    assert facts([(packed, 1), (packed, 2)]).text_encoder == load(packed).text_encoder
    assert facts([(packed, 1), (packed, 2)]).classes == load(packed).classes


@pytest.fixture
def two_packed(shapes, tmp_path, monkeypatch):
    stand_in(monkeypatch)
    for name in ("one", "two"):
        pack(shapes, tmp_path / name, PackSettings(size=SIDE, shards=8, text_encoder="stand-in", text_tokens=8))
    return tmp_path / "one", tmp_path / "two"


def test_sets_that_do_not_agree_in_what_is_asked_are_both_named(two_packed):
    one, two = two_packed
    source = [(one, 1), (two, 1)]
    how = {"places": source, "batch": 8, "resolution": SIDE}
    classes = load(two).classes
    edited(two, text_encoder=TextInfo(id="other-2", dim=4, max_tokens=8), classes=[*classes[1:], classes[0]])
    with pytest.raises(
        ValueError, match=r"one has text features of \('stand-in-1', 4\), .*two of \('other-2', 4\); pack both"
    ):
        Reader(**how, text_tokens=3)
    with pytest.raises(ValueError, match=r"one and .*two number their classes differently; pack both"):
        Reader(**how, label=True)
    assert len(next(Reader(**how).batches())) == 8
    edited(two, text_encoder=None, classes=None)
    with pytest.raises(ValueError, match="two has no text features"):
        Reader(**how, text_tokens=3)


def test_captions_of_two_lengths_do_not_mix(two_packed):
    one, two = two_packed
    edited(two, text_encoder=TextInfo(id="stand-in-1", dim=4, max_tokens=5))
    source = [(one, 1), (two, 1)]
    assert facts(source).text_encoder is None
    with pytest.raises(
        ValueError, match=r"one has captions cut to 8 tokens, .*two to 5; pack both with one --text-tokens"
    ):
        Reader(places=source, batch=8, resolution=SIDE, text_tokens=4)
    assert len(next(Reader(places=source, batch=8, resolution=SIDE).batches())) == 8


# validation


def test_validation_of_a_mixture_has_each_picture_once_and_shares_a_limit(tmp_path, red_and_blue):
    val = colored(tmp_path / "val", (9, 9, 9), num_shards=2, first="val")
    both = colored(tmp_path / "more", (8, 8, 8), num_shards=3, first="val")
    source = [(red_and_blue[0], 1), (val, 3), (both, 1)]
    batches = list(read_split(source, "val", batch=5, resolution=SIDE))
    keys = [key for batch in batches for key in batch.keys]
    assert len(keys) == len(set(keys)) == 20
    assert [i for b in batches for i in b.index.tolist()] == list(range(20))
    limited = [
        key.partition("-")[0] for b in read_split(source, "val", batch=5, resolution=SIDE, limit=8) for key in b.keys
    ]
    assert Counter(limited) == {"val": 6, "more": 2}
    with pytest.raises(ValueError, match="no split 'val', only train"):
        read_split(list(zip(red_and_blue, (1, 1), strict=True)), "val", batch=5, resolution=SIDE)


def test_a_bad_sample_is_replaced_within_its_data_set(tmp_path, red_and_blue):
    for s in range(4):
        make_tar(
            tmp_path / f"d/{s}.tar",
            [(f"d-{s}-0.png", b"junk"), (f"d-{s}-1.png", png((0, 9, 0)))],
        )
    reindex(tmp_path / "d")
    source = [(red_and_blue[0], 1), (tmp_path / "d", 1)]
    for batch in islice(Reader(places=source, batch=8, resolution=SIDE, block=2).batches(), 4):
        assert Counter(key.partition("-")[0] for key in batch.keys) == {"red": 4, "d": 4}
        assert all(key.endswith("-1") for key in batch.keys if key.startswith("d-"))
    assert Image.MAX_IMAGE_PIXELS
