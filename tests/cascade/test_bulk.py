"""Bulk generation by real processes: the bytes do not depend on how many there are or on who was killed."""

import hashlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cascade.output import bulk
from cascade.pipeline import Cascade
from cascade.request import Request
from tests.full_disk import full_disk

ROOT = Path(__file__).parents[2]
TINY = ("--cascade", "cascade/shipped/emoji_tiny")
ASKED = (*TINY, "red heart", "green apple", "--num", "5", "--shard-size", "3", "--steps", "1")


def command(out: Path, *more: str, ranks: int = 1, asked: tuple[str, ...] = ASKED) -> subprocess.Popen:
    launcher = (
        ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), "--"] if ranks > 1 else []
    )
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, *launcher, str(ROOT / "sample.py"), *asked, "--out", str(out), *more]
    return subprocess.Popen(
        arguments, env=env, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def done(process: subprocess.Popen, code: int = 0) -> tuple[str, str]:
    out, err = process.communicate(timeout=240)
    assert process.returncode == code, err
    return out, err


def bytes_of(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """What one undisturbed process makes."""
    folder = tmp_path_factory.mktemp("bulk") / "whole"
    out, _ = done(command(folder))
    assert out.split() == [str(folder / f"train-{number:05d}.tar") for number in range(4)]
    return folder


def test_members_of_each_picture(whole):
    samples: dict[str, dict[str, bytes]] = {}
    for path in sorted(whole.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, kind = member.name.partition(".")
                samples.setdefault(key, {})[kind] = tar.extractfile(member).read()
    assert list(samples) == [f"{k:09d}" for k in range(10)]
    assert [sample["txt"] for sample in samples.values()] == [b"red heart"] * 5 + [b"green apple"] * 5
    assert [json.loads(sample["json"])["image"] for sample in samples.values()] == list(range(10))
    assert all(Image.open(io.BytesIO(sample["png"])).size == (64, 64) for sample in samples.values())


def test_they_are_data_of_this_project(whole, tmp_path):
    """`data.index` takes them as they are, with what else lies there."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in whole.glob("*.tar"):
        (copy / path.name).write_bytes(path.read_bytes())
    told = subprocess.run(
        [sys.executable, "-m", "data.index", str(copy)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stderr
    assert json.loads((copy / "index.json").read_text())["shards"][0]["num"] == 3


@pytest.mark.matrix
def test_the_same_command_twice_at_once(whole, tmp_path):
    """One works, the other is refused and takes nothing away; whichever number of processes it has."""
    first = command(tmp_path / "out")
    deadline = time.monotonic() + 120
    while not list((tmp_path / "out").glob(".*.part")):
        assert time.monotonic() < deadline
        assert first.poll() is None
        time.sleep(0.005)
    os.killpg(first.pid, signal.SIGSTOP)
    try:
        _, err = done(command(tmp_path / "out"), 2)
    finally:
        os.killpg(first.pid, signal.SIGCONT)
    assert len(err.splitlines()) == 1
    assert f'another process works there ({{"host": "{socket.gethostname()}", "pid": {first.pid}}})' in err
    done(first)
    assert bytes_of(tmp_path / "out") == bytes_of(whole)


def test_a_picture_of_a_shard_again(whole, tmp_path):
    """By the .json beside it: the picture, to the last bit."""
    with tarfile.open(whole / "train-00001.tar") as tar:
        for kind in ("png", "json"):
            (tmp_path / f"5.{kind}").write_bytes(tar.extractfile(f"000000005.{kind}").read())
    asked = (*TINY, "--again", str(tmp_path / "5.json"))
    out, _ = done(command(tmp_path / "again.png", asked=asked))
    assert out == f"{tmp_path}/again.png\n"
    a, b = (np.asarray(Image.open(tmp_path / name)) for name in ("5.png", "again.png"))
    assert np.array_equal(a, b)


@pytest.mark.matrix
def test_two_processes_make_the_same_bytes(whole, tmp_path):
    out, _ = done(command(tmp_path / "out", ranks=2))
    assert len(out.split()) == 4
    assert bytes_of(tmp_path / "out") == bytes_of(whole)


@pytest.mark.matrix
def test_killed_it_goes_on_with_any_number(whole, tmp_path):
    """kill -9 with a shard half written; then one process ends the work of two and nothing else stays."""
    folder = tmp_path / "out"
    process = command(folder, ranks=2)
    deadline = time.monotonic() + 120
    while not list(folder.glob(".*.part")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    subprocess.run(["pkill", "-9", "-f", str(folder)], check=False)  # workers have sessions of their own
    process.communicate()
    assert bytes_of(folder) != bytes_of(whole)
    (folder / ".1-of-2.request.part").write_text("{")  # a kill a moment earlier
    done(command(folder))
    assert bytes_of(folder) == bytes_of(whole)
    assert done(command(folder))[0] == ""  # nothing is left to do


def test_another_request_is_refused(whole):
    before = bytes_of(whole)
    _, err = done(command(whole, "--seed", "1"), 2)
    assert err == f"error: --out {whole}: shards of a request with other seed are there; choose another folder\n"
    assert bytes_of(whole) == before


def test_a_whole_shard_ends_in_zeros_at_a_record(tmp_path):
    """What a power cut leaves of one does not, wherever it cuts."""
    path = tmp_path / "train-00000.tar"
    assert not bulk.is_whole(path)
    with tarfile.open(path, "w") as tar:
        member = tarfile.TarInfo("000000000.png")
        member.size = 2 * bulk.RECORD
        tar.addfile(member, io.BytesIO(b"x" * member.size))
    whole = path.read_bytes()
    assert len(whole) % bulk.RECORD == 0
    assert bulk.is_whole(path)
    cuts = (b"", whole[: bulk.RECORD], whole[: 2 * bulk.RECORD], whole[:-512], whole[:-1024] + b"x" + bytes(1023))
    for cut in (*cuts, whole[:-1] + b"x"):
        path.write_bytes(cut)
        assert not bulk.is_whole(path), len(cut)


@pytest.mark.parametrize("said", ["[]", "null", "{", '"x"', ""])
def test_a_damaged_record_of_the_request(tmp_path, said):
    (tmp_path / "request.json").write_text(said)
    with pytest.raises(ValueError, match=r"request\.json: damaged"):
        bulk.check_asked(tmp_path / "request.json", {"seed": 0}, ".part")


def test_a_disk_that_is_full_at_the_first_byte_keeps_nothing(tmp_path):
    with full_disk(5), pytest.raises(OSError, match="File too large"):
        bulk.check_asked(tmp_path / "request.json", {"seed": 0}, ".0-of-1.request.part")
    assert not [*tmp_path.iterdir()]


def test_shards_of_an_unknown_request(tmp_path):
    (tmp_path / "train-00000.tar").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"without their request\.json"):
        bulk.check_asked(tmp_path / "request.json", {"seed": 0}, ".part")
    assert not (tmp_path / "request.json").exists()


@pytest.mark.matrix
def test_cut_shards_are_made_again(whole, tmp_path):
    """As after a power cut; whole ones stay."""
    for name, keep in (("train-00000.tar", 700), ("train-00001.tar", 0), ("train-00002.tar", None)):
        (tmp_path / name).write_bytes((whole / name).read_bytes()[:keep])
    assert [bulk.is_whole(tmp_path / f"train-{number:05d}.tar") for number in range(4)] == [False, False, True, False]
    (tmp_path / "request.json").write_bytes((whole / "request.json").read_bytes())
    done(command(tmp_path))
    assert bytes_of(tmp_path) == bytes_of(whole)


@pytest.mark.parametrize(("rank", "world"), [("x", "1"), ("0", "0"), ("5", "2"), ("-1", "2")])
def test_an_environment_that_cannot_be(monkeypatch, rank, world):
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", world)
    with pytest.raises(ValueError, match="a rank from 0"):
        bulk.rank_and_world()


@pytest.mark.matrix
@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--shard-size", "0", "--prompts-file", "missing.txt"), "missing.txt: No such file"),
        (("--shard-size", "-1"), "--shard-size -1 is out of range"),
        (("--shard-size", "1", "--num", "1000000"), "at most 100000"),
        (("--image", str(ROOT / "data/emoji64/1f34e.png"), "--from", "sr_64"), "leave --image"),
    ],
)
def test_mistakes_are_one_line(tmp_path, more, says):
    _, err = done(command(tmp_path / "out", *more), 2)
    assert says in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "out" / "request.json").exists()


@pytest.mark.matrix
def test_prompts_of_a_file(tmp_path, whole):
    (tmp_path / "prompts.txt").write_text("red heart\n\ngreen apple\n")
    asked = ("--prompts-file", str(tmp_path / "prompts.txt"), *TINY, *ASKED[4:])
    done(command(tmp_path / "out", asked=asked))
    assert bytes_of(tmp_path / "out") == bytes_of(whole)


def test_a_shard_is_on_the_disk_before_its_name_is(tmp_path, monkeypatch):
    """Else a power cut can leave a name over zeros, which look like the end of a whole one; and the name is kept then, too."""
    found: list[tuple[str, int]] = []
    fsync, replace = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        found.append(("sync", os.fstat(descriptor).st_ino))
        fsync(descriptor)

    def renamed(source: Path, target: Path) -> None:
        found.append(("rename", os.stat(source).st_ino))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    few = {"base_16": {"num_steps": 1}, "sr_64": {"num_steps": 1}}
    request = Request(prompts=("red heart",), num=2, settings=few)
    shards = list(bulk.generate(Cascade.load("cascade/shipped/emoji_tiny"), request, tmp_path / "out", shard_size=1))
    files = [path.stat().st_ino for path in (tmp_path / "out" / bulk.REQUEST_FILE, *shards)]
    folder = (tmp_path / "out").stat().st_ino
    assert found == [each for file in files for each in (("sync", file), ("rename", file), ("sync", folder))]
