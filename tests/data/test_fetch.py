"""What goes wrong between a shard elsewhere and this machine: real servers on loopback that fail, real processes, one cache."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from data.index import load
from data.places.address import Access, open_place
from data.places.cache import ShardCache
from data.read.mixture import Mixture
from data.read.shards import Reader

from .conftest import SIDE, make_tar, png, reindex
from .servers import Times, hang_up, other_bytes, serving, silent, status, trickle

SHARD = "train-00003.tar"


@pytest.fixture
def access(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr("data.places.remote.FIRST_WAIT_S", 0.02)
    return Access(cache_dir=tmp_path / "cache", timeout_s=0.5, retries=2)


def first_keys(place, access, num=8) -> list[tuple[str, ...]]:
    batches = Reader(places=Mixture(((place, 1.0),), access), batch=16, resolution=SIDE).batches()
    try:
        return [next(batches).keys for _ in range(num)]
    finally:
        batches.close()


@pytest.mark.parametrize("fault", [status(503), status(429), hang_up, silent, trickle], ids=lambda f: f.__name__)
def test_a_transient_failure_is_retried(packed, access, fault, monkeypatch):
    monkeypatch.setattr("data.places.remote.MIN_RATE", 1e6)
    with serving(packed) as server:
        server.faults[SHARD] = Times(2, fault)
        assert first_keys(server.url, access) == first_keys(packed, access)
        assert server.gets[SHARD] >= 3


@pytest.mark.parametrize(
    ("fault", "says"),
    [(status(404), "is missing"), (status(503), r"after 3 tries: HTTP 503"), (silent, "no answer within 0.5 s")],
    ids=["404", "503", "silent"],
)
def test_a_lasting_failure_is_an_error_within_seconds_that_names_the_shard(packed, access, fault, says):
    with serving(packed) as server:
        server.faults[SHARD] = fault
        began = time.monotonic()
        with pytest.raises((OSError, ValueError), match=rf"{SHARD}.*{says}"):
            first_keys(server.url, access)
        assert time.monotonic() - began < 10


def test_a_missing_local_shard_is_an_error_at_once(tmp_path):
    for name in "ab":
        make_tar(tmp_path / f"{name}.tar", [(f"{name}.png", png((9, 9, 9)))])
    reindex(tmp_path)
    (tmp_path / "b.tar").unlink()
    with pytest.raises(ValueError, match=r"b\.tar"):
        Reader(places=tmp_path, batch=2, resolution=SIDE, streams=2)


def test_other_bytes_of_the_right_length_are_refused_and_not_kept(packed, access):
    size = next(shard.bytes for shard in load(packed).shards if shard.name == SHARD)

    def flipped(handler) -> bool:
        content = bytearray((packed / SHARD).read_bytes())
        content[size // 2] ^= 1
        handler.send_response(200)
        handler.send_header("Content-Length", str(size))
        handler.end_headers()
        handler.wfile.write(content)
        return True

    with serving(packed) as server:
        for fault, says in ((flipped, "another sha256"), (other_bytes, "bytes|sha256")):
            server.faults[SHARD] = fault
            with pytest.raises(ValueError, match=rf"{SHARD} is not what the index says: .*({says})"):
                first_keys(server.url, access)
    shard = next(shard for shard in load(packed).shards if shard.name == SHARD)
    assert not (access.cache_dir / shard.sha256).exists()


@pytest.mark.parametrize("place", ["pipe:cat /etc/passwd {}", "pipe: touch {}"])
def test_a_command_needs_permission(place, access, tmp_path):
    with pytest.raises(ValueError, match=r"would run a shell command; allow it with .*--allow-pipe"):
        open_place(place, access)


def test_nothing_in_a_name_or_the_environment_is_expanded(packed, access, tmp_path, monkeypatch):
    """webdataset's GOPEN_REWRITE and shell variables: neither changes what is opened."""
    monkeypatch.setenv("GOPEN_REWRITE", f"{packed}=pipe:touch {tmp_path}/ran #")
    monkeypatch.setenv("X", str(packed))
    monkeypatch.chdir(tmp_path)
    for place in ("$X", "${X}", "${X}/index.json"):
        with pytest.raises(ValueError, match=r"no shards|only the last part|does not exist"):
            open_place(place, access)
    assert first_keys(packed, access, 1)
    assert not (tmp_path / "ran").exists()


def test_two_data_sets_with_the_same_names_share_a_cache_and_do_not_mix(tmp_path, access):
    folders = []
    for name, color in (("red", (255, 0, 0)), ("blue", (0, 0, 255))):
        folder = tmp_path / name
        for k in range(8):
            make_tar(folder / f"{k:06d}.tar", [(f"{k}-{i}.png", png(color)) for i in range(2)])
        reindex(folder)
        folders.append(folder)
    seen = []
    for folder in folders:
        with serving(folder) as server:
            batches = Reader(places=Mixture(((server.url, 1.0),), access), batch=8, resolution=SIDE).batches()
            seen.append(next(batches).image.float().mean(dim=(0, 2, 3)).tolist())
            batches.close()
    assert seen == [[255, 0, 0], [0, 0, 255]]
    assert len([path for path in access.cache_dir.iterdir() if len(path.name) == 64]) == 16


def test_the_cache_keeps_its_bound_and_gives_the_same(packed, access):
    shards = load(packed).shards
    bound = 3 * max(shard.bytes for shard in shards)
    small = Access(cache_dir=access.cache_dir, cache_bytes=bound, timeout_s=1.0, retries=1)
    with serving(packed) as server:
        assert first_keys(server.url, small, 20) == first_keys(packed, access, 20)
    deadline = time.monotonic() + 20
    while list(access.cache_dir.glob("*.part")):  # what was being fetched ahead when the reader was closed
        assert time.monotonic() < deadline
        time.sleep(0.05)
    kept = [path.stat().st_size for path in access.cache_dir.iterdir() if len(path.stem) == 64]
    assert kept
    assert sum(kept) <= bound


def test_many_readers_fetch_a_shard_once(packed, tmp_path):
    shard = load(packed).shards[0]
    cache, fetched = ShardCache(folder=tmp_path / "cache", max_bytes=1 << 30), []

    def fetch():
        fetched.append(1)
        time.sleep(0.2)
        yield (packed / shard.name).read_bytes()

    cache.prepare()

    def content(_) -> bytes:
        with cache.open(shard, fetch) as file:
            return file.read()

    with ThreadPoolExecutor(8) as pool:
        contents = list(pool.map(content, range(8)))
    assert len(fetched) == 1
    assert set(contents) == {(packed / shard.name).read_bytes()}


def test_a_fetch_that_is_killed_leaves_no_shard_and_no_lock(packed, access):
    """kill -9 in the middle of a fetch: the next process fetches again."""
    code = f"""
import sys
from pathlib import Path
from data.places.cache import ShardCache
from data.index import load
shard = load(Path({str(packed)!r})).shards[0]
def fetch():
    yield b"x" * 100
    print("half way", flush=True)
    sys.stdin.read()
cache = ShardCache(folder=Path({str(access.cache_dir)!r}), max_bytes=1 << 30)
cache.prepare()
cache.open(shard, fetch)
"""
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    assert child.stdout.readline() == b"half way\n"
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    child.stdin.close()
    child.stdout.close()
    shard = load(packed).shards[0]
    assert not (access.cache_dir / shard.sha256).exists()
    with serving(packed) as server:
        assert first_keys(server.url, access) == first_keys(packed, access)
