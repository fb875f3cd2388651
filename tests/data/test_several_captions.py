"""Several captions a picture: packed once a shard, one drawn for each pass, the first one for held-out pictures."""

import csv
import hashlib
import json
import logging
import math
import sys
from collections import Counter
from itertools import chain

import numpy as np
import pytest

from data.cli import run
from data.decode import decode_captions, decode_features
from data.index import CaptionKind, fingerprint, load, report
from data.index.tally import index_folder
from data.index.tally import main as index_main
from data.pack.__main__ import main as pack_main
from data.pack.kinds import parse_plan
from data.pack.packer import pack
from data.pack.settings import PackSettings
from data.read.captions import Pass, drawn
from data.read.mixture import facts
from data.read.shards import Reader, read_split
from data.tar import MEMBER_LIMITS, stream

from .conftest import StandInEncoder, lay, make_tar, members, png, stand_in
from .reading import global_batches, taken
from .test_sources import image_folder

NUM, SIDE = 48, 8
CAPTIONS = ("name=0.5", "tags=0.25", "tags+kind=0.15")
SETTINGS = PackSettings(size=SIDE, shards=8, text_encoder="stand-in", text_tokens=8, caption=CAPTIONS)
HOW = {"resolution": SIDE, "text_tokens": 4}


@pytest.fixture(autouse=True)
def _stand_in(monkeypatch):
    stand_in(monkeypatch)


def row(k: int) -> dict:
    """Of picture k: a name of its own, tags that it shares, a kind that all have. Words tell apart by their lengths."""
    name = "n" * (20 + k)
    return {"file_name": f"{k:03d}.png", "name": name, "tags": ["t", "tt", "ttt"][: 1 + k % 3], "kind": "kkkk"}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return image_folder(tmp_path_factory.mktemp("several") / "src", [row(k) for k in range(NUM)])


@pytest.fixture(scope="module")
def several(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("several") / "shards"
    with pytest.MonkeyPatch.context() as patch:
        stand_in(patch)
        pack(source, folder, SETTINGS, workers=0)
    return folder


def captions_of(k: int) -> list[list[str]]:
    each = row(k)
    return [[each["name"]], each["tags"], [f"{tag}, kkkk" for tag in each["tags"]]]


def told(batch, row: int) -> tuple[int, ...]:
    """The lengths of the words of the caption of a row; () without one."""
    part = batch.cond.parts["text"]
    assert part.keep[row] == part.mask[row].any()
    return tuple(int(number) for number in part.value[row, part.mask[row], 0])


def lengths(text: str) -> tuple[int, ...]:
    return tuple(len(word) for word in text.split())


# ---- what is packed


def test_every_caption_is_stored_and_each_text_of_a_shard_once(several):
    index = load(several)
    assert [(kind.name, kind.probability, kind.pictures) for kind in index.captions] == [
        ("name", 0.5, NUM), ("tags", 0.25, NUM), ("tags+kind", 0.15, NUM),
    ]  # fmt: skip
    encoder = StandInEncoder()
    for shard in index.shards:
        stored, needed = [], set()
        with (several / shard.name).open("rb") as file:
            for key, sample in stream(file, shard.name):
                assert set(sample) == {
                    "png",
                    "txt",
                    "json",
                    "captions.json",
                    "captions.npy",
                }  # all alike, for `datasets`
                assert decode_captions(sample["captions.json"]) == captions_of(int(key))
                assert sample["txt"].decode() == row(int(key))["name"]
                assert json.loads(sample["json"])["tags"] == row(int(key))["tags"]
                new = decode_features(sample["captions.json"], sample["captions.npy"], encoder.dim)
                stored += new
                needed |= set(chain(*captions_of(int(key))))
                assert needed <= set(stored)  # whoever reads the shard from its start has them in time
                for text, features in new.items():
                    np.testing.assert_array_equal(features, encoder.encode([text])[0])
        assert Counter(stored) == Counter(needed)


def test_shards_with_one_caption_are_what_they_were(source, tmp_path):
    """No new key in the index, and the fingerprint is that of the shards alone."""
    settings = SETTINGS.model_copy(update={"caption": (), "text_column": "name"})
    index = pack(source, tmp_path / "one", settings, workers=0)
    text = json.loads((tmp_path / "one" / "index.json").read_text())
    assert not {"captions"} & text.keys()
    assert not {"caption", "list_column"} & text["settings"].keys()
    lines = "".join(f"{each.split} {each.num} {each.sha256}\n" for each in index.shards)
    assert index.fingerprint == hashlib.sha256(lines.encode()).hexdigest()
    assert set(members(tmp_path / "one")["000"]) == {"png", "txt", "json", "text.npy"}


def test_the_fingerprint_knows_the_probabilities(several, source, tmp_path):
    other = pack(
        source, tmp_path / "a", SETTINGS.model_copy(update={"caption": ("name=0.4", *CAPTIONS[1:])}), workers=0
    )
    index = load(several)
    assert [each.sha256 for each in other.shards] == [each.sha256 for each in index.shards]
    assert other.fingerprint != index.fingerprint == fingerprint(index.shards, index.captions)
    part = facts(f"{several}/train-0000[01].tar")
    assert part.fingerprint == fingerprint(part.shards, index.captions)


def test_packing_again_with_other_probabilities_is_not_taken_for_done(source, tmp_path):
    pack(source, tmp_path / "out", SETTINGS, workers=0)
    before = (tmp_path / "out" / "index.json").stat().st_mtime_ns
    pack(source, tmp_path / "out", SETTINGS, workers=0)
    assert (tmp_path / "out" / "index.json").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="holds something else"):
        pack(source, tmp_path / "out", SETTINGS.model_copy(update={"caption": CAPTIONS[:2]}), workers=0)


def test_index_lists_the_captions_and_keeps_them(several, tmp_path, monkeypatch, capsys):
    report(load(several), several)
    line = f"captions drawn: name 0.5 ({NUM} pictures), tags 0.25 ({NUM} pictures), tags+kind 0.15 ({NUM} pictures), none 0.1"
    assert line in capsys.readouterr().out.splitlines()
    for path in several.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(sys, "argv", ["command", str(tmp_path), "--update"])
    with pytest.raises(SystemExit) as left:
        run(index_main)
    assert left.value.code == 0
    assert load(tmp_path).captions == load(several).captions
    assert load(tmp_path).fingerprint == load(several).fingerprint


# ---- where columns come from


def told_as(folder) -> dict[str, list[list[str]]]:
    return {key: decode_captions(sample["captions.json"]) for key, sample in members(folder).items()}


def test_a_table_without_lists_has_them_by_a_separator(tmp_path):
    with (lay(tmp_path / "src", "a.png", "b.png") / "metadata.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [["file_name", "name", "tags"], ["a.png", "one | two", " red| | green |red"], ["b.png", "", "blue"]]
        )
    settings = PackSettings(size=8, text_encoder="x", caption=("name=0.5", "tags=0.5"), list_column=("tags=|",))
    pack(tmp_path / "src", tmp_path / "out", settings, workers=0)
    assert told_as(tmp_path / "out") == {"a": [["one | two"], ["red", "green"]], "b": [[], ["blue"]]}
    assert {key: sample["txt"] for key, sample in members(tmp_path / "out").items()} == {
        "a": b"one | two",
        "b": b"blue",
    }


def test_what_lies_beside_pictures(tmp_path):
    others = {
        "a.json": json.dumps({"Tags": ["x", "y"]}), "a.txt": "long a", "b.json": json.dumps({"Tags": None}), "b.txt": "long b",
    }  # fmt: skip
    src = lay(tmp_path / "src", "a.png", "b.png", others=others)
    settings = PackSettings(size=8, text_encoder="x", caption=("txt=0.5", "Tags=0.25", "Tags+txt=0.25"))
    index = pack(src, tmp_path / "out", settings, workers=0)
    assert told_as(tmp_path / "out") == {
        "a": [["long a"], ["x", "y"], ["x, long a", "y, long a"]],
        "b": [["long b"], [], []],
    }
    assert [kind.pictures for kind in index.captions] == [2, 1, 1]
    assert not index.unread
    with pytest.raises(
        ValueError, match=r"--caption: column 'tags' is not in .*, which has Tags, txt; did you mean Tags\?"
    ):
        pack(src, tmp_path / "no", settings.model_copy(update={"caption": ("tags=1",)}), workers=0)


def test_a_json_that_no_column_needs_is_not_read(tmp_path):
    """Where all columns are files of their own it may hold anything: it is counted as not read."""
    others = {"a.txt": "long a", "a.tags": "x", "a.json": "{broken", "b.txt": "long b", "b.json": "[1]"}
    src = lay(tmp_path / "src", "a.png", "b.png", others=others)
    settings = PackSettings(size=8, text_encoder="x", caption=("txt=0.5", "tags=0.25"))
    index = pack(src, tmp_path / "out", settings, workers=0)
    assert told_as(tmp_path / "out") == {"a": [["long a"], ["x"]], "b": [["long b"], []]}
    assert not index.skipped
    assert index.unread[".json"].num == 2


def test_tars_are_packed_again(several, tmp_path):
    """Their json members kept the columns: the same captions at another size; foreign tars have a column txt, too."""
    small = SETTINGS.model_copy(update={"size": 4, "text_tokens": 6})
    index = pack(several, tmp_path / "small", small, workers=0)
    assert told_as(tmp_path / "small") == told_as(several)
    assert index.captions == load(several).captions
    pack(several, tmp_path / "one", PackSettings(size=4, text_encoder="x"), workers=0)
    assert load(tmp_path / "one").captions is None
    assert load(tmp_path / "one").unread[".captions.json in tars"].num == NUM
    make_tar(
        tmp_path / "src/0.tar", [("a.png", png()), ("a.txt", b"of a"), ("a.json", b'{"tags": ["x"]}'), ("b.png", png())]
    )
    settings = PackSettings(size=8, text_encoder="x", caption=("tags=0.5", "txt=0.5"))
    index = pack(tmp_path / "src", tmp_path / "out", settings, workers=0)
    assert sorted(told_as(tmp_path / "out").values()) == [[[], []], [["x"], ["of a"]]]
    assert index.notes["without a caption, trained without one"].num == 1
    with pytest.raises(
        ValueError, match=r"column 'tag' is not in the members of .*, which has tags; did you mean tags\?"
    ):
        pack(tmp_path / "src", tmp_path / "no", settings.model_copy(update={"caption": ("tag=1",)}), workers=0)


# ---- what is drawn


def expected(probabilities, captions) -> dict[str | None, float]:
    """The closed form: what is left to 1 is none; the rest is shared by the kinds that are there, a kind's by its texts."""
    left, present = (
        1 - math.fsum(probabilities),
        sum(p for p, texts in zip(probabilities, captions, strict=True) if texts),
    )
    if not present:
        return {None: 1.0}
    share = Counter({None: left})
    for p, texts in zip(probabilities, captions, strict=True):
        for text in texts:
            share[text] += (1 - left) * p / present / len(texts)
    return {text: p for text, p in share.items() if p > 1e-9}


@pytest.mark.parametrize("probabilities", [(0.5, 0.25, 0.15), (0.1, 0.2, 0.7), (0.3, 0.3, 0.4)])
@pytest.mark.parametrize(
    "captions",
    [
        [["a"], ["b", "c", "d"], ["e", "f"]],
        [[], ["b", "c"], ["e"]],
        [["a"], [], []],
        [[], [], []],
        [["a"], ["a", "b"], []],
    ],
)
def test_the_share_of_each_caption_is_the_closed_form(probabilities, captions):
    """Over all numbers of a fine grid exactly; over the numbers of passes and keys within 5 standard deviations."""
    kinds = [CaptionKind(columns=[f"{k}"], probability=p) for k, p in enumerate(probabilities)]
    want, fine, num = expected(probabilities, captions), 10_000, 6_000
    grid = Counter(drawn(captions, kinds, (k + 0.5) / fine) for k in range(fine))
    assert set(grid) == set(want)
    for text, share in want.items():
        assert abs(grid[text] / fine - share) < 10 / fine
    got = Counter(
        drawn(captions, kinds, Pass(seed=3, epoch=epoch).number(f"key-{k}"))
        for epoch in range(60)
        for k in range(num // 60)
    )
    for text, share in want.items():
        assert abs(got[text] - num * share) <= 5 * math.sqrt(num * share * (1 - share))


@pytest.mark.parametrize("number", [0.0, 1 - 2**-53])
def test_the_ends_of_the_numbers_are_captions(number):
    kinds = [CaptionKind(columns=[f"{k}"], probability=0.1) for k in range(10)]
    assert drawn([[f"{k}"] for k in range(10)], kinds, number) == ("0" if number == 0 else "9")


def test_numbers_are_the_same_for_ever_and_no_two_alike():
    assert [Pass(seed=0, epoch=epoch).number("a") for epoch in range(3)] == pytest.approx(NUMBERS, abs=1e-12)
    many = {
        Pass(seed=seed, epoch=epoch).number(key) for seed in range(5) for epoch in range(20) for key in "abcdefghij"
    }
    assert len(many) == 1000
    assert all(0 <= number < 1 for number in many)


NUMBERS = [0.08845867179311329, 0.4990308437001578, 0.7108592517546012]


def test_training_draws_by_the_probabilities_of_the_index(several):
    """100 passes of 48 pictures: each kind within 5 standard deviations, a caption of the picture itself, none drawn as none."""
    got: Counter = Counter()
    for batch in taken(several, 300, streams=8, **HOW):
        for k, key in enumerate(batch.keys):
            words = told(batch, k)
            kinds = [[lengths(text) for text in texts] for texts in captions_of(int(key))]
            got[
                next((number for number, texts in enumerate(kinds) if words in texts), "none" if words == () else key)
            ] += 1
    num = 300 * 16
    for kind, share in {0: 0.5, 1: 0.25, 2: 0.15, "none": 0.1}.items():
        assert abs(got[kind] - num * share) <= 5 * math.sqrt(num * share * (1 - share))
    assert set(got) == {0, 1, 2, "none"}


def test_held_out_pictures_have_their_first_caption_always(several, tmp_path, source):
    for _ in range(2):
        batches = list(read_split(several, "train", batch=16, **HOW))
        for batch in batches:
            assert [told(batch, k) for k in range(len(batch))] == [(20 + int(key),) for key in batch.keys]
    rows = [row(0) | {"name": ""}, row(1) | {"name": None, "tags": []}, row(2)]
    image_folder(tmp_path / "src", rows)
    pack(tmp_path / "src", tmp_path / "out", SETTINGS.model_copy(update={"shards": 1}), workers=0)
    (batch,) = read_split(tmp_path / "out", "train", batch=8, **HOW)
    assert {key: told(batch, k) for k, key in enumerate(batch.keys)} == {"000": (1,), "001": (), "002": (22,)}
    assert (batch.cond.parts["text"].keep == batch.cond.parts["text"].mask.any(dim=1)).all()


@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes")
@pytest.mark.parametrize(("world", "workers"), [(1, 2), (2, 0), (2, 2), (4, 3)])
@pytest.mark.parametrize("kept", [True, False])
def test_a_resume_at_another_number_of_workers_draws_the_same(several, world, workers, kept, monkeypatch):
    """To the bit, from the middle of a shard and of an epoch, wherever shards are kept in memory or streamed."""
    whole = global_batches(several, 9, **HOW)
    if not kept:
        monkeypatch.setattr("data.read.samples.KEEP_BYTES", 0)
    assert global_batches(several, 9, world=world, workers=workers, **HOW) == whole
    assert global_batches(several, 4, 5 * 16, world=world, workers=workers, **HOW) == whole[5:9]
    assert len({text for batch in whole for _, _, _, _, text in batch}) > NUM  # it is drawn at all


def test_another_batch_or_block_changes_no_draw_and_another_seed_all(several):
    """A pass is an epoch of a stream: its pictures have the same captions however it is divided."""

    def draws(nimg=NUM * 4, batch=16, **how):
        rows = [row for batch in global_batches(several, nimg // batch, batch=batch, **HOW, **how) for row in batch]
        return Counter((key, text) for _, key, _, _, text in rows)

    first = draws()
    assert draws(batch=8) == draws(batch=48) == draws(block=3) == first
    assert draws(seed=1) != first


def test_a_mixture_draws_each_data_set_by_its_own_captions(several, source, tmp_path):
    settings = SETTINGS.model_copy(update={"caption": (), "text_column": "kind"})
    pack(source, tmp_path / "one", settings, workers=0)
    mixed = [(several, 1.0), (tmp_path / "one", 1.0)]
    words = Counter(told(batch, k) == (4,) for batch in taken(mixed, 40, **HOW) for k in range(len(batch)))
    assert words == {True: 320, False: 320}
    assert facts(mixed).captions is None
    changed = tmp_path / "changed"
    pack(source, changed, SETTINGS.model_copy(update={"caption": ("name=0.4", *CAPTIONS[1:])}), workers=0)
    assert facts([(changed, 1.0), (tmp_path / "one", 1.0)]).fingerprint != facts(mixed).fingerprint


def test_maps_and_labels_come_with_any_caption(source, tmp_path):
    settings = SETTINGS.model_copy(update={"maps": str(source), "label_column": "name"})
    pack(source, tmp_path / "out", settings, workers=0)
    reader = Reader(places=tmp_path / "out", batch=16, streams=8, label=True, maps=True, **HOW)
    batch = next(reader.batches())
    assert {"maps", "label", "text"} == set(batch.cond.parts)
    assert [reader.index.classes[number] for number in batch.cond.value("label")] == [
        row(int(key))["name"] for key in batch.keys
    ]
    assert batch.cond.parts["label"].keep.all()  # only the text is dropped where no caption is drawn


# ---- faults


def damaged(several, folder, bad):
    """A copy with members of some samples replaced; its index counts them."""
    for path in sorted(several.glob("*.tar")):
        with path.open("rb") as file:
            samples = [(key, sample | bad.get(key, {})) for key, sample in stream(file, path.name)]
        make_tar(
            folder / path.name,
            [(f"{key}.{ext}", content) for key, sample in samples for ext, content in sample.items()],
        )
    from data.index import save

    save(index_folder(folder, load(several)), folder)
    return folder


def test_fault_broken_captions_are_replaced_and_named(several, tmp_path, caplog):
    """With them go those whose features they held: nobody is told another picture's caption."""
    where = {}
    for path in sorted(several.glob("*.tar")):
        with path.open("rb") as file:
            where |= {key: path.name for key, _ in stream(file, path.name)}
    first = {name: next(key for key, shard in where.items() if shard == name) for name in where.values()}
    a, b, c, d, *_ = first.values()
    bad = {
        a: {"captions.json": b"[]"}, b: {"captions.npy": b"\x80\x04cposix\n"}, c: {"captions.json": b"{" * 9},
        d: {"captions.json": json.dumps({"captions": [["x"]], "features": {}}).encode()},
    }  # fmt: skip
    folder = damaged(several, tmp_path / "d", bad)
    with caplog.at_level(logging.WARNING, "data"):
        for batch in taken(folder, 30, block=64, **HOW):
            for k, key in enumerate(batch.keys):
                assert told(batch, k) in [(), *(lengths(text) for text in chain(*captions_of(int(key))))]
                assert key not in (a, c, d)
    said = "\n".join(record.getMessage() for record in caplog.records)
    for key, why in (
        (a, "no JSON object"),
        (b, "no token features"),
        (c, "no JSON"),
        (d, "captions of 1 kinds, the index has 3"),
    ):
        assert f"bad sample {key} " in said
        assert why in said


@pytest.mark.parametrize(
    ("caption", "lists", "says"),
    [
        (("name",), (), "--caption 'name' is not COLUMN=PROBABILITY; write --caption name=0.5"),
        (("name=",), (), "'name=' is not COLUMN=PROBABILITY; write --caption name=0.5"),
        (("=0.5",), (), "'=0.5' is not COLUMN=PROBABILITY"),
        (("name=much",), (), "'name=much' is not COLUMN=PROBABILITY"),
        (("name=nan",), (), "'name=nan' is not COLUMN=PROBABILITY"),
        (("name=1.5",), (), "'name=1.5': a probability is above 0 and at most 1"),
        (("name=-0.1",), (), "'name=-0.1': a probability is above 0 and at most 1"),
        (("name=0",), (), "'name=0': a probability is above 0 and at most 1"),
        (("name=0.7", "tags=0.5"), (), r"the probabilities of name, tags add up to 1\.2, at most 1"),
        (("name=0.5", "name=0.2"), (), "'name' is given twice"),
        (("name+=0.5",), (), "a column has no name"),
        (("name=0.5,tags=0.5",), (), "write --caption name=0.5 --caption tags=0.5"),
        (("nmae=0.5",), (), r"column 'nmae' is not in metadata.jsonl, which has file_name, kind, name, tags; did you mean name\?"),
        (("tags+knid=0.5",), (), r"column 'knid' .* did you mean kind\?"),
        (("tags=0.5",), ("tag=,",), r"--list-column 'tag' is in no --caption; did you mean tags\?"),
        (("tags=0.5",), ("tags",), r"--list-column 'tags' is not COLUMN=SEPARATOR; write --list-column 'tags=|'"),
    ],
)  # fmt: skip
def test_options_that_mean_nothing_are_refused(source, tmp_path, caption, lists, says):
    settings = SETTINGS.model_copy(update={"caption": caption, "list_column": lists})
    with pytest.raises(ValueError, match=says) as error:
        pack(source, tmp_path / "out", settings, workers=0)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_probabilities_may_add_up_to_one_by_rounding():
    assert len(parse_plan([f"{k}=0.1" for k in range(10)], []).kinds) == 10
    assert len(parse_plan(["a=0.7", "b=0.2", "c=0.1"], []).kinds) == 3


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"text_encoder": None}, "add --text-encoder minilm"),
        ({"text_column": "name"}, "--text-column name names the one caption, --caption several"),
    ],
)
def test_options_that_contradict_it_are_refused(source, tmp_path, changes, says):
    with pytest.raises(ValueError, match=says):
        pack(source, tmp_path / "out", SETTINGS.model_copy(update=changes), workers=0)


def test_captions_that_nobody_has_are_refused(tmp_path):
    src = image_folder(tmp_path / "src", [row(k) | {"name": " ", "tags": [], "other": "x"} for k in range(4)])
    for caption, says in (
        (("name=0.5", "tags=0.5"), "all captions of all pictures are empty"),
        (("other=0.5", "tags=0.5"), "tags is empty for every picture; leave it out"),
    ):
        with pytest.raises(ValueError, match=says):
            pack(src, tmp_path / "out", SETTINGS.model_copy(update={"caption": caption}), workers=0)
        assert not (tmp_path / "out").exists()


def test_captions_that_nobody_has_are_refused_before_a_picture_is_read(tmp_path):
    src = image_folder(tmp_path / "src", [row(k) | {"tags": 7 if k == 3 else []} for k in range(4)])
    for path in src.glob("*.png"):
        path.write_bytes(b"no picture")
    with pytest.raises(ValueError, match="tags is empty for every picture"):
        pack(src, tmp_path / "out", SETTINGS, workers=0)


def test_captions_above_the_limit_of_a_member_count_as_bad(tmp_path, monkeypatch):
    """The next picture with one of their texts brings its features."""
    rows = [
        row(0),
        row(1) | {"tags": ["shared", *(f"{k} {k} {k} {k}" for k in range(90))]},
        row(2) | {"tags": ["shared"]},
    ]
    src = image_folder(tmp_path / "src", rows)
    monkeypatch.setitem(MEMBER_LIMITS, "npy", 2048)
    settings = SETTINGS.model_copy(update={"max_bad": 0.4, "shards": 1})
    index = pack(src, tmp_path / "out", settings, workers=0)
    assert (index.num, index.skipped["captions too large"].num) == (2, 1)
    (name,) = index.skipped["captions too large"].names
    assert name.startswith("001.png (captions.npy ")
    assert name.endswith("at most 2,048)")
    sample = members(tmp_path / "out")["002"]
    assert "shared" in decode_features(sample["captions.json"], sample["captions.npy"], StandInEncoder.dim)
    with pytest.raises(ValueError, match=r"1 of 3 pictures are bad, .*1 captions too large: 001\.png"):
        pack(src, tmp_path / "no", settings.model_copy(update={"max_bad": 0.1}), workers=0)


def test_a_column_that_is_no_text_or_too_many_counts_as_bad(tmp_path):
    rows = [row(0), row(1) | {"tags": 7}, row(2) | {"tags": ["x", 7]}, row(3) | {"tags": [f"{k}" for k in range(101)]}]
    src = image_folder(tmp_path / "src", rows)
    index = pack(src, tmp_path / "out", SETTINGS.model_copy(update={"max_bad": 0.8, "shards": 1}), workers=0)
    assert index.num == 1
    assert {reason: each.num for reason, each in index.skipped.items()} == {
        "caption is no text": 2, "more than 100 captions of one kind": 1,
    }  # fmt: skip


def test_the_command_ends_with_a_line_and_code_2(source, tmp_path, monkeypatch, capsys):
    words = [
        "command",
        str(source),
        str(tmp_path / "out"),
        "--text-encoder",
        "x",
        "--caption",
        "name=0.5",
        "--caption",
        "tag=0.5",
    ]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as left:
        run(pack_main)
    assert left.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith("did you mean tags?")
