"""A version with one key more in every config, with a default, opens what the first version left, as this one does."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kept.make import ROOT

LATER = "    later: Annotated[float, LATER] = 0.5\n"


def with_later_keys(source: str) -> tuple[str, int]:
    """The text of a file with a new key in each class of a config, and how many there are."""
    lines, tree = source.splitlines(keepends=True), ast.parse(source)
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name.endswith("Config")]
    for node in reversed(classes):
        assert isinstance(node.body[0], ast.Expr), f"{node.name} has no docstring"
        lines.insert(node.body[0].end_lineno, LATER)
    last = [node for node in tree.body if isinstance(node, ast.ImportFrom)][-1]
    lines.insert(last.end_lineno, "from typing import Annotated\n\nfrom stages.texts import LATER\n")
    return "".join(lines), len(classes)


@pytest.fixture
def later(tmp_path) -> Path:
    """The whole project of that version."""
    for name in ("cascade", "data", "stages", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "emoji64"))
    for name in ("train.py", "sample.py", "pyproject.toml"):
        shutil.copy2(ROOT / name, tmp_path / name)
    found = 0
    for path in (tmp_path / "stages").rglob("*_config.py"):
        source, num = with_later_keys(path.read_text())
        path.write_text(source)
        found += num
    assert found >= 11
    return tmp_path


@pytest.mark.matrix
@pytest.mark.timeout(900)
def test_what_the_first_version_left(later):
    """Its runs, pictures, bulk jobs, store and bundles."""
    tests = ("tests/kept/test_kept.py", "-k", "not two")  # which would start two processes more
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    environment = os.environ | {"PYTHONPATH": str(later), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=later, env=environment, capture_output=True, text=True, timeout=840, check=False)
    assert done.returncode == 0, done.stdout[-5000:]
    probe = "import stages.config as c; print(c.__file__, c.SampleConfig().later, c.TrainConfig().later)"
    told = subprocess.run(
        [sys.executable, "-c", probe], cwd=later, env=environment, capture_output=True, text=True, check=False
    )
    assert told.stdout.split() == [str(later / "stages" / "config.py"), "0.5", "0.5"], told.stderr
