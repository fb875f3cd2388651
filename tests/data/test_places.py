"""Every way to say where shards lie gives the same batches; fetched shards go through the cache, checked, once."""

import shutil
import time
from itertools import islice

import fsspec
import pytest

from data.index import fingerprint, load
from data.places.address import Access, open_place
from data.read.mixture import Mixture, facts
from data.read.shards import Reader, read_split

from .conftest import SIDE, foreign_folder, reindex
from .servers import serving


@pytest.fixture
def access(tmp_path, monkeypatch):
    """Short times, own cache, and no proxy between us and loopback."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr("data.places.remote.FIRST_WAIT_S", 0.02)
    return Access(cache_dir=tmp_path / "cache", timeout_s=1.0, retries=2, allow_pipe=True)


def keys(place, access, num=14, **how) -> list[tuple]:
    source = Mixture(((place, 1.0),), access)
    how = {"batch": 16, "resolution": SIDE, "block": 5, "label": True, "text_tokens": 3} | how
    batches = Reader(places=source, **how).batches()
    got = [(b.keys, b.image.numpy().tobytes(), b.cond.value("text").numpy().tobytes()) for b in islice(batches, num)]
    batches.close()
    return got


@pytest.fixture
def in_memory(packed):
    memory = fsspec.filesystem("memory")
    memory.put(str(packed), "/emoji", recursive=True)
    yield "memory://emoji"
    memory.rm("/emoji", recursive=True)


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("workers", [0, 2])
def test_all_kinds_of_places_give_the_same_batches(packed, in_memory, access, workers, large, monkeypatch):
    if large:
        monkeypatch.setattr("data.read.samples.KEEP_BYTES", 0)
    want = keys(packed, access)
    with serving(packed) as server:
        places = [server.url, f"{server.url}/", f"{server.url}/index.json", f"file://{packed}", in_memory]
        places += [
            f"pipe:cat {packed}/{{}}",
            packed / "index.json",
            f"{packed}/*.tar",
            f"{packed}/train-0000{{0..7}}.tar",
        ]
        for place in places:
            assert keys(place, access, workers=workers) == want, place
            shutil.rmtree(access.cache_dir, ignore_errors=True)


def test_each_shard_is_fetched_once_and_then_comes_from_the_cache(packed, access):
    names = [shard.name for shard in load(packed).shards]
    with serving(packed) as server:
        first = keys(server.url, access)
        assert [server.gets[name] for name in names] == [1] * 8
        assert keys(server.url, access) == first
        assert [server.gets[name] for name in names] == [1] * 8
    assert sorted(p.name for p in access.cache_dir.iterdir() if p.name != ".lock") == sorted(
        shard.sha256 for shard in load(packed).shards
    )


def test_the_next_shard_is_fetched_while_one_is_read(packed, access, monkeypatch):
    monkeypatch.setattr("data.read.samples.KEEP_BYTES", 0)
    with serving(packed) as server:
        source = Mixture(((server.url, 1.0),), access)
        batches = Reader(places=source, batch=1, resolution=SIDE, streams=1, block=2).batches()
        next(batches)
        names = [shard.name for shard in Reader(places=source, batch=1, resolution=SIDE, streams=1).epoch(0, 0)]
        assert wait_for(lambda: server.gets[names[1]] == 1)
        assert server.gets[names[2]] == 0


def wait_for(what, limit_s=5.0) -> bool:
    end = time.monotonic() + limit_s
    while not what() and time.monotonic() < end:
        time.sleep(0.02)
    return what()


def test_a_validation_split_is_read_from_everywhere(tmp_path, access):
    folder = foreign_folder(tmp_path / "d", num_shards=2)
    shutil.move(folder / "00001.tar", folder / "val-00001.tar")
    reindex(folder)
    with serving(folder) as server:
        for place in (folder, server.url, f"{folder}/val-*.tar", f"{server.url}/val-*.tar"):
            batches = read_split(Mixture(((place, 1.0),), access), "val", batch=3, resolution=24)
            assert [len(b) for b in batches] == [3, 2], place


# patterns


def test_a_pattern_restricts_the_index(packed):
    all_shards = load(packed).shards
    for pattern, kept in [
        ("train-0000{0..3}.tar", [0, 1, 2, 3]),
        ("train-0000[67].tar", [6, 7]),
        ("train-00002.tar", [2]),
        ("train-0000{5,1}.tar", [1, 5]),
    ]:
        index = open_place(f"{packed}/{pattern}").index
        want = [all_shards[k] for k in kept]
        assert index.shards == want
        assert index.num_images == {"train": sum(shard.num for shard in want)}
        assert index.fingerprint == fingerprint(want)
        assert index.label_counts is None
    assert open_place(f"{packed}/*.tar").index == load(packed)


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("train-0000{7..9}.tar", r"no shard is called train-00008\.tar, train-00009\.tar; index\.json has train-00000"),
        ("val-*.tar", r"no shard is called val-\*\.tar"),
        ("train-{0..3.tar", "braces in .* do not match"),
        ("*/x.tar", "only the last part may be a pattern"),
    ],
)
def test_patterns_that_name_nothing(packed, pattern, says):
    with pytest.raises(ValueError, match=says):
        open_place(f"{packed}/{pattern}")


def test_a_folder_with_marks_in_its_name_is_a_folder(tmp_path):
    folder = foreign_folder(tmp_path / "odd [1]*{a}=2")
    assert open_place(folder).index == load(folder)
    assert open_place(folder / "00001.tar").index.num_images == {"train": 5}


# addresses


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("", "an empty place"),
        ("s3://bucket/emoji", "its package is not installed .*s3fs.*; install it with pip"),
        ("nonsense://x/y", "Protocol not known: nonsense; give a folder, or an address like https://"),
        ("http://user:word@127.0.0.1/x", "no user in it"),
        ("http:///x", "needs a host"),
        ("file://host/x", "file:// of the host 'host'; write file:///PATH"),
        ("memory://nowhere", "memory://nowhere has no index.json"),
        ("memory://x/{a,b}/*.tar", "only the last part may be a pattern"),
    ],
)
def test_addresses_that_cannot_be(place, says, access):
    with pytest.raises(ValueError, match=says) as error:
        open_place(place, access)
    assert "word" not in str(error.value)


def test_a_token_is_sent_and_never_shown(packed, access):
    with serving(packed) as server:
        url = f"{server.url}/?token=secret"
        server.faults["train-00003.tar?token=secret"] = lambda handler: handler.send_error(403) or True
        with pytest.raises(OSError, match=r"train-00003\.tar cannot be read: HTTP 403") as error:
            keys(url, access)
        assert "secret" not in str(error.value)
        assert (
            server.gets["train-00003.tar?token=secret"] <= 2
        )  # by the reader and ahead of it; a refusal is not tried again


def test_a_server_that_tells_no_sizes_will_do(packed, access):
    with serving(packed) as server:
        server.head = False
        assert keys(server.url, access, num=2) == keys(packed, access, num=2)


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    from data.places.cache import default_folder

    monkeypatch.setenv("CASCADE_CACHE", str(tmp_path / "c"))
    assert default_folder() == tmp_path / "c"
    monkeypatch.delenv("CASCADE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert default_folder() == tmp_path / "x/cascade/shards"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "h"))
    assert default_folder() == tmp_path / "h/.cache/cascade/shards"


def test_facts_of_a_place_are_its_index(packed, access):
    with serving(packed) as server:
        assert facts(Mixture(((server.url, 1.0),), access)) == facts(packed) == load(packed)
    assert facts((packed, 3)) == load(packed)
