"""Faults of data that only a process of its own shows: memory under bombs, kill -9 of a packer or a loader, commands."""

import gzip
import hashlib
import io
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
from PIL import Image

from data.index import load
from data.index.tally import index_folder
from data.read.shards import Reader

from .conftest import SIDE, make_tar, png, reindex

ROOT = Path(__file__).parents[2]
SVG = b"<svg xmlns='http://www.w3.org/2000/svg' width='24' height='24'/>"
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 24 24\nshowpage\n"

READ_AND_PACK = """
import resource, sys, warnings
from pathlib import Path
from data.pack.packer import pack
from data.pack.settings import PackSettings
from data.read.shards import read_split
from data.index.tally import index_folder
from data.index import save
warnings.simplefilter("error")
good, bombs, out = map(Path, sys.argv[1:])

def all_of(folder, target):
    save(index_folder(folder), folder)
    keys = [key for batch in read_split(folder, "train", batch=20, resolution=24) for key in batch.keys]
    pack(folder, target, PackSettings(size=16, max_bad=1.0), workers=0)
    return keys, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

_, before = all_of(good, out / "good")
keys, after = all_of(bombs, out / "bombs")
print(set(keys), after - before)
"""


def environment(**changes: str) -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""} | changes


def bytes_of(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


def grey(side: int) -> bytes:
    """A whole PNG of side x side, a thousandth of its pixels in bytes."""
    out = io.BytesIO()
    Image.new("L", (side, side)).save(out, "PNG", compress_level=1)
    return out.getvalue()


def add_sparse(path: Path, name: str, num_bytes: int) -> None:
    """Appends a member of zeros that takes no room on the disk."""
    with tarfile.open(path) as tar:
        end = max(info.offset_data + -(-info.size // 512) * 512 for info in tar)
    info = tarfile.TarInfo(name)
    info.size = num_bytes
    with path.open("r+b") as file:
        file.seek(end)
        file.write(info.tobuf(tarfile.GNU_FORMAT))
        file.truncate(end + 512 + -(-num_bytes // 512) * 512 + 1024)


@pytest.mark.matrix
@pytest.mark.slow
def test_bombs_in_shards_cost_no_memory(tmp_path):
    """Indexed, read and packed in one process: 1 GB of JSON, gzip of zeros, 12000² pixels, SVG and EPS, nested JSON."""
    make_tar(tmp_path / "good" / "0.tar", [(f"g{k}.png", png()) for k in range(4)])
    members = [
        ("a.png", png()),
        ("b.png", grey(12_000)),
        ("c.png", SVG),
        ("d.jpg", EPS),
        ("e.svg", SVG),
        ("f.eps", EPS),
    ]
    members += [
        ("g.png", png()),
        ("g.json", b"[" * 500_000),
        ("h.png", png()),
        ("h.json.gz", gzip.compress(bytes(1 << 28))),
    ]
    members += [("i.png", gzip.compress(bytes(1 << 28))), ("j.png", png())]
    path = make_tar(tmp_path / "bombs" / "0.tar", members)
    add_sparse(path, "j.json", 1 << 30)
    done = subprocess.run(
        [sys.executable, "-c", READ_AND_PACK, tmp_path / "good", tmp_path / "bombs", tmp_path / "out"],
        cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    keys, grown_kb = re.fullmatch(r"(\{.*\}) (-?\d+)\n", done.stdout).groups()
    assert sorted(re.findall(r"\w+", keys)) == ["a", "g", "h", "j"]
    assert int(grown_kb) < 200_000
    packed = load(tmp_path / "out/bombs")
    assert packed.num_images == {"train": 2}  # the facts of g and j cannot be carried over
    counts = {why: skipped.num for why, skipped in packed.skipped.items()}
    assert (counts["its .json member is broken"], counts[".json member too large"]) == (1, 1)


def test_a_bomb_does_not_enter_the_index_as_a_picture(tmp_path):
    """Its size would make the whole data set one of mixed sizes."""
    make_tar(tmp_path / "0.tar", [("a.png", png()), ("b.png", grey(8000))])
    index = index_folder(tmp_path)
    assert index.size == (SIDE, SIDE)
    assert [why for why in index.skipped if "pixels" in why]


def test_a_repeated_key_in_a_shard_is_an_error_and_across_shards_is_not_lost(tmp_path):
    make_tar(tmp_path / "twice/0.tar", [("a.png", png()), ("b.png", png()), ("a.txt", b"x")])
    index = reindex(tmp_path / "twice")
    assert index.num_images == {"train": 3}  # a.txt comes without its picture: counted, never merged with the first a
    assert index.skipped["no picture"].names == ["0.tar/a"]
    for shard in ("0.tar", "1.tar"):
        make_tar(tmp_path / "across" / shard, [("a.png", png())])
    assert reindex(tmp_path / "across").num_images == {"train": 2}


@pytest.mark.slow
@pytest.mark.parametrize("flag", ["--data", "--val-data"])
def test_train_runs_no_command_without_permission(tmp_path, flag):
    start = train_command(tmp_path)
    folder = start[start.index("--data") + 1]
    arguments = [*start, "--out", tmp_path / "out", flag, f"pipe:touch {tmp_path}/ran; cat {folder}/{{}}"]
    done = subprocess.run(arguments, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=200)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "would run a shell command" in line
    assert "--allow-pipe" in line
    assert not (tmp_path / "ran").exists()


def train_command(folder: Path, **train: object) -> list:
    """train.py of a tiny stage, on 48 shapes; all but --out."""
    from data.pack.packer import pack
    from data.pack.settings import PackSettings
    from data.shapes import write_folder
    from tests.stages.tiny import base_config

    pack(write_folder(folder / "pictures", 48, 16), folder / "shards", PackSettings(size=16, shards=8), workers=0)
    stage = base_config(**train).model_dump(mode="json")
    (folder / "tiny.yaml").write_text(json.dumps({"name": "tiny", "stages": {"base_8": stage}}))
    what = [folder / "tiny.yaml", "base_8", "--data", folder / "shards"]
    return [sys.executable, "train.py", *what, "--engine", "local", "--device", "cpu"]


def wait_for(what, limit_s: float = 100.0) -> bool:
    end = time.monotonic() + limit_s
    while not (found := what()) and time.monotonic() < end:
        time.sleep(0.02)
    return bool(found)


@pytest.mark.matrix
@pytest.mark.slow
def test_a_packer_killed_with_sigkill_leaves_no_data_set_and_the_next_run_gives_the_same_bytes(tmp_path):
    src = tmp_path / "src"
    src.mkdir()
    for k in range(320):
        (src / f"{k}.png").write_bytes(png((k % 256, 9, 9), size=(600, 600)))
    command = [sys.executable, "-m", "data.pack", src, tmp_path / "out", "--size", "32", "--workers", "1"]
    job = subprocess.Popen(command, cwd=ROOT, env=environment(), stderr=subprocess.DEVNULL, start_new_session=True)
    assert wait_for(lambda: list((tmp_path / "out").glob("*/train-00002.tar")))
    os.kill(job.pid, signal.SIGKILL)
    job.wait()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["packing.part"]
    assert wait_for(lambda: not alive_in_session(job.pid), 20)  # its worker processes end, too
    with pytest.raises(ValueError, match=r"shards but no index\.json|no shards"):
        load(tmp_path / "out")
    for target in ("out", "want"):
        command[4] = tmp_path / target
        subprocess.run(command, cwd=ROOT, env=environment(), stderr=subprocess.DEVNULL, check=True)
    assert bytes_of(tmp_path / "out") == bytes_of(tmp_path / "want")


def alive_in_session(session: int) -> list[int]:
    """Processes of a session that are no zombies."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, of = stat.read_text().rpartition(")")[2].split()[:4]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(of) == session and state != "Z":
            found.append(int(stat.parent.name))
    return found


def test_the_end_of_a_loader_is_raised_where_a_batch_is_awaited(packed):
    """Not in the midst of an update, where torch's signal handler would raise it."""
    others = set(multiprocessing.active_children())
    batches = Reader(places=packed, batch=16, resolution=SIDE, workers=2).batches()
    next(batches)
    victim = (set(multiprocessing.active_children()) - others).pop()
    os.kill(victim.pid, signal.SIGKILL)
    time.sleep(0.3)  # stands for an update
    with pytest.raises(OSError, match=rf"a loader process died .*pid.*{victim.pid}"):
        next(batches)


@pytest.mark.matrix
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_killed_loader_ends_a_training_run_which_resumes_exactly(tmp_path):
    """train.py as it is, one loader process, killed with -9 while it trains; the same command then ends as a run left alone."""
    from safetensors.torch import load_file

    command = train_command(tmp_path, images=4000, save_every=400, workers=1, keep=20, log_every=8)
    how = {"cwd": ROOT, "env": environment(), "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    job = subprocess.Popen([*command, "--out", tmp_path / "killed"], start_new_session=True, **how)
    checkpoints = tmp_path / "killed/base_8/checkpoints"
    assert wait_for(lambda: checkpoints.exists() and any(checkpoints.glob("*/manifest.json")))
    loaders = [pid for pid in alive_in_session(job.pid) if is_loader(pid, job.pid)]
    assert loaders
    for pid in loaders:  # the training loader; there is no other while it trains
        os.kill(pid, signal.SIGKILL)
    killed_at = time.monotonic()
    _, errors = job.communicate(timeout=100)
    assert time.monotonic() - killed_at < 60
    assert job.returncode == 2, errors[-3000:]
    assert "a loader process died" in errors.splitlines()[-1]
    assert any(str(pid) in errors.splitlines()[-1] for pid in loaders)
    assert "Traceback" not in errors
    seen = json.loads((tmp_path / "killed/base_8/metrics.jsonl").read_text().splitlines()[-1])["nimg"]
    assert (checkpoints / f"nimg-{seen:010d}/manifest.json").exists()  # nothing that was trained is lost
    for out in ("killed", "alone"):
        done = subprocess.run([*command, "--out", tmp_path / out], timeout=150, check=False, **how)
        assert done.returncode == 0, done.stderr[-2000:]
    ends = [
        load_file(next((tmp_path / out / "base_8/checkpoints").glob("*4000*")) / "state.safetensors")
        for out in ("killed", "alone")
    ]
    assert ends[0].keys() == ends[1].keys()
    assert all(ends[0][name].equal(ends[1][name]) for name in ends[0])


def is_loader(pid: int, parent: int) -> bool:
    """A fork of the trainer: its child, with its command line."""
    try:
        of = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        same = Path(f"/proc/{pid}/cmdline").read_bytes() == Path(f"/proc/{parent}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return of == parent and same
