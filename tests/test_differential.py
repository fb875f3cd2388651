"""The differential sees what it is for: a tree is equal to its copy, and other than one in which a single thing was moved."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.matrix, pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[1]
CASES = ("base_text", "sr_crop", "sample_heun")
NOT_COPIED = shutil.ignore_patterns("emoji64", "__pycache__", "page")
MOVED = {  # file, what stood there, what stands there now, the cases that differ; and those that may, by whole bytes of their grids
    "two draws change places": (
        "stages/draws.py",
        '"sigma", "drop",',
        '"drop", "sigma",',
        {"base_text", "sr_crop"},
        set(),
    ),
    "a constant of heun, in the seventh figure": (
        "stages/diffusion/second_order.py",
        "/ sigma_next) / 2",
        "/ sigma_next) * 0.5000001",
        {"sample_heun"},
        {"base_text"},
    ),
}


@pytest.fixture
def copy(tmp_path) -> Path:
    """Another checkout of this tree."""
    for name in ("data", "stages", "cascade"):
        shutil.copytree(ROOT / name, tmp_path / "tree" / name, ignore=NOT_COPIED)
    for name in ("train.py", "sample.py"):
        shutil.copy(ROOT / name, tmp_path / "tree" / name)
    return tmp_path / "tree"


def differential(tree: Path) -> tuple[int, dict[str, str]]:
    """Exit code, and the line of each case."""
    command = [sys.executable, str(ROOT / "tests" / "differential.py"), str(tree)]
    command += [word for case in CASES for word in ("--only", case)]
    done = subprocess.run(command, cwd=tree.parent, capture_output=True, text=True, timeout=850, env=os.environ)
    told = [line.split(maxsplit=2) for line in done.stdout.splitlines()]
    return done.returncode, {words[1].rstrip(":"): " ".join(words) for words in told if words[0].isalpha()}


def test_a_copy_is_equal(copy):
    code, lines = differential(copy)
    assert code == 0, lines
    assert all(lines[case].startswith("equal ") for case in CASES), lines


@pytest.mark.parametrize("what", MOVED)
def test_what_was_moved_is_seen(copy, what):
    name, old, new, seen, perhaps = MOVED[what]
    text = (copy / name).read_text()
    assert old in text
    (copy / name).write_text(text.replace(old, new, 1))
    code, lines = differential(copy)
    assert code == 1, lines
    different = {case for case in CASES if lines[case].startswith("DIFFERENT")}
    assert seen <= different <= seen | perhaps, lines
