"""Loader processes: they outlive no parent and hear no signal that asks for a stop."""

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from data.pack.packer import pack
from data.pack.settings import PackSettings
from data.read.shards import Reader
from data.shapes import write_folder


@pytest.fixture(scope="module")
def reader(tmp_path_factory) -> Reader:
    folder = tmp_path_factory.mktemp("loaders")
    pack(write_folder(folder / "pictures", 48, 16), folder / "shards", PackSettings(size=16, shards=8), workers=0)
    return Reader(places=folder / "shards", batch=16, resolution=16, workers=2)


def loaders(before: set) -> list[int]:
    return [each.pid for each in set(multiprocessing.active_children()) - before]


def is_alive(pid: int) -> bool:
    """A process that runs; one that only waits to be taken note of does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def reading(reader: Reader, then: str) -> subprocess.Popen:
    """A process of its own that has taken a batch, said its first key, and does what `then` says."""
    words = f"{reader!r}.batches(); print(next(batches).keys[0], flush=True); {then}"
    script = f"import time; from pathlib import PosixPath; from data.read.shards import Reader; batches = {words}"
    return subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)


def test_they_end_with_a_parent_that_was_killed(reader):
    """While they wait to hand over what nobody reads any more."""
    with reading(reader, "time.sleep(600)") as parent:
        assert parent.stdout.readline()
        time.sleep(1)  # their queues are full by now
        pids = [each.pid for each in psutil.Process(parent.pid).children()]
        assert [is_alive(pid) for pid in pids] == [True, True]
        parent.kill()
    ends = time.monotonic() + 20
    while any(map(is_alive, pids)) and time.monotonic() < ends:
        time.sleep(0.05)
    assert not any(map(is_alive, pids))


def test_they_end_with_a_parent_that_leaves_them_running(reader):
    """At its exit it would wait for them, and they for it."""
    with reading(reader, "") as parent:
        try:
            assert parent.wait(120) == 0
        finally:
            parent.kill()
        assert parent.stdout.read().split() == [next(replace(reader, workers=0).batches()).keys[0]]


class ToldToStop(BaseException):
    """What a handler raises, wherever the process is just then."""


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_a_stop_while_they_are_started_leaves_none(reader, monkeypatch):
    """Whichever thread the kernel gives the signal to, Python's handler comes to the main one: half a loader could not be ended."""

    def told(number, frame):
        raise ToldToStop

    def tell():
        while here.children() == there and not over.is_set():
            time.sleep(0.0005)
        if not over.is_set():
            signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

    here, over, many = psutil.Process(), threading.Event(), replace(reader, workers=8)
    there = here.children()
    handler = signal.signal(signal.SIGTERM, told)
    teller = threading.Thread(target=tell)
    try:
        teller.start()
        with pytest.raises(ToldToStop):
            for _ in many.batches():
                pass
        assert here.children() == there
        assert signal.getsignal(signal.SIGTERM) is told
    finally:
        over.set()
        teller.join()
        signal.signal(signal.SIGTERM, handler)
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP])
def test_signals_to_a_group_change_nothing(reader, number):
    before = set(multiprocessing.active_children())
    batches, left_alone = reader.batches(), replace(reader, workers=0).batches()
    for _ in range(8):
        assert next(batches).keys == next(left_alone).keys
        for pid in loaders(before):
            os.kill(pid, number)
    batches.close()
    assert not loaders(before)


def test_one_that_hangs_does_not_hold_up_the_end(reader):
    before = set(multiprocessing.active_children())
    batches = reader.batches()
    next(batches)
    for pid in loaders(before):
        os.kill(pid, signal.SIGSTOP)
    started = time.monotonic()
    batches.close()
    assert time.monotonic() - started < 4  # torch alone would wait 5 s for each
    assert not loaders(before)


def test_one_that_was_killed_with_the_lock_of_the_end_does_not_hold_it_up(reader):
    batches = reader.batches()
    next(batches)
    iterator = next(each for each in gc.get_objects() if isinstance(each, _MultiProcessingDataLoaderIter))
    assert iterator._workers_done_event._cond.acquire()  # as a process does that asks whether it shall end
    batches.close()
    ender = threading.Thread(target=iterator._shutdown_workers, daemon=True)  # as torch does when the iterator goes
    ender.start()
    ender.join(10)
    assert not ender.is_alive()


def test_the_end_of_ours_is_no_fault_of_the_next(reader):
    before = set(multiprocessing.active_children())
    for _ in range(3):
        batches = reader.batches()
        next(batches)
        batches.close()
        assert not loaders(before)
    assert next(reader.batches()).keys == next(replace(reader, workers=0).batches()).keys


def test_they_are_children_of_their_reader_whatever_python_prefers(reader):
    """Since 3.14 processes come from a server of forks unless one asks for another way: its children hear other signals."""
    start = "import multiprocessing; multiprocessing.set_start_method('forkserver')"
    imports = "from pathlib import PosixPath; from data.read.shards import Reader"
    script = f"{start}; {imports}; print(next({reader!r}.batches()).keys[0])"
    told = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True
    ).stdout
    assert told.split() == [next(reader.batches()).keys[0]]
