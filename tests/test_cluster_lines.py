"""The lines of cascade/train/README.md begin as they are typed: their presets, their shards, their numbers of processes."""

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from cascade.config import load_config
from cascade.launch import stage_commands
from data.read.mixture import parse
from stages.bundle import read_sidecar
from stages.training.checks import checked_reader

pytestmark = pytest.mark.matrix

ROOT = Path(__file__).parents[1]
README = (ROOT / "cascade" / "train" / "README.md").read_text(encoding="utf-8")
SECTION = README.partition("<!-- cluster -->")[2].partition("<!-- /cluster -->")[0]
NODES = 2  # of the lines with a hostfile
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}


@dataclass(frozen=True, kw_only=True)
class Start:
    """One training that a line begins."""

    cascade: str
    stage: str
    shards: str
    world: int

    def __str__(self) -> str:
        return f"{self.cascade}-{self.stage}-{self.world}"


def lines() -> list[list[str]]:
    blocks = re.findall(r"^```bash\n(.*?)^```", SECTION, re.DOTALL | re.MULTILINE)
    return [shlex.split(line, comments=True) for block in blocks for line in block.replace("\\\n", " ").splitlines()]


def after(words: list[str], *flags: str) -> list[str]:
    return [words[place + 1] for place, word in enumerate(words) if word in flags]


def number(words: list[str], *flags: str) -> int:
    return int((after(words, *flags) or ["1"])[0])


def starts() -> list[Start]:
    """What the lines begin, each once."""
    found: list[Start] = []
    for words in lines():
        if "train.py" in words and "--data" in words:
            cascade, stage = words[words.index("train.py") + 1 :][:2]
            slots = NODES * int(re.findall(r"slots=(\d+)", SECTION)[0]) if "--hostfile" in words else 1
            ranks = number(words, "--nnodes") * number(words, "--num_gpus", "--nproc-per-node") * slots
            world = max(ranks, number(words, "--world"))
            found.append(Start(cascade=cascade, stage=stage, shards=after(words, "--data")[0], world=world))
        elif "cascade.launch" in words:
            cascade = words[words.index("cascade.launch") + 1]
            given = {"data": after(words, "--data"), "stages": after(words, "--stage")}
            plans = stage_commands(
                load_config(cascade), cascade, **given, out=Path("out"), nproc=number(words, "--nproc"), more=[]
            )
            nodes = number(words, "--nodes")
            found += [
                Start(cascade=cascade, stage=p.stage, shards=p.arguments[3], world=p.processes * nodes) for p in plans
            ]
    return list(dict.fromkeys(found))


STARTS = starts()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where the document's own lines have packed their shards."""
    made = tmp_path_factory.mktemp("cluster")
    (made / "data").symlink_to(ROOT / "data")
    for line in re.findall(r"^python -m data\.pack data/emoji64 .*$", README, re.MULTILINE):
        words = [sys.executable, *shlex.split(line)[1:]]
        done = subprocess.run(words, cwd=made, env=ENVIRONMENT, capture_output=True, text=True, timeout=280)
        assert done.returncode == 0, done.stderr
    return made


def test_the_lines_are_found():
    """Both launchers, one node and two, jobs of a launcher and of SLURM."""
    assert {start.world for start in STARTS} >= {1, 2, 8, 16}
    assert {start.stage for start in STARTS} >= {"base_16", "sr_64", "sr_128"}
    assert sum(start.world >= 8 for start in STARTS) >= 4


@pytest.mark.parametrize("start", STARTS, ids=str)
def test_all_processes_of_a_line_share_its_first_batches(start, folder):
    config = load_config(start.cascade, [f"stages.{start.stage}.train.workers=0"]).stages[start.stage]
    batch = config.train.batch
    index: list[int] = []
    for rank in range(start.world):
        reader, micro = checked_reader(config, parse([str(folder / start.shards)]), rank=rank, world=start.world)
        batches = reader.batches()
        for part in (next(batches), next(batches)):
            assert len(part) == batch // start.world
            assert len(part) % micro == 0
            assert min(part.image.shape[2:]) >= config.resolution
            index += part.index.tolist()
    assert sorted(index) == list(range(2 * batch))


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "start",
    [max((s for s in STARTS if s.stage == stage), key=lambda s: s.world) for stage in ("base_16", "sr_128")],
    ids=str,
)
def test_as_many_processes_make_their_first_update(start, folder, tmp_path):
    """With loader processes and ZeRO 1, from the shards to the bundle; forked, and on this machine's cores."""
    batch = load_config(start.cascade).stages[start.stage].train.batch
    train = f"stages.{start.stage}.train"
    short = [f"--images={batch}", "--zero=1", f"{train}.val_images=8", f"{train}.warmup=0", f"{train}.grid_every=1"]
    words = [start.cascade, start.stage, "--data", str(folder / start.shards), "--out", str(tmp_path), *short]
    command = [sys.executable, "-m", "tests.forked", str(start.world), *words, "--device=cpu"]
    done = subprocess.run(
        command, cwd=ROOT, env=ENVIRONMENT | {"DS_ACCELERATOR": "cpu"}, capture_output=True, text=True, timeout=580
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    assert read_sidecar(tmp_path / start.stage / "bundle").provenance.nimg == batch


def slurm(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    line = next(words for words in lines() if "--slurm" in words)
    words = line[line.index("cascade.launch") + 1 : line.index(">")]
    command = [sys.executable, "-m", "cascade.launch", *words, *more]
    return subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=280)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ([], ""),
        (
            ["--data", "sr_128=shards/emoji_64"],
            "stage sr_128: data shards/emoji_64: pictures are 64 px, 128 px are needed",
        ),
        (
            ["--nproc", "5"],
            "cannot be shared by 10 processes; set train.batch=",
        ),
        (["--", "--imagse=8"], "stage sr_64: No such option: --imagse"),
        (["--", "stages.sr_64.train.micro_batch=3"], "stage sr_64: train.micro_batch 3 does not divide "),
    ],
)
def test_slurm_queues_only_what_will_begin(folder, more, told):
    """The line of the document, and what can be wrong with it, before there is a script."""
    done = slurm(folder, *more)
    assert done.returncode == (2 if told else 0), done.stderr
    assert told in done.stderr
    assert ("#SBATCH" in done.stdout) == (not told)


def test_shards_that_only_the_nodes_can_read_are_left_unchecked(folder):
    done = slurm(folder, "--data", "sr_128=/scratch/shards", "--data-on-nodes")
    assert done.returncode == 0, done.stderr
    assert "--data /scratch/shards" in done.stdout
