"""python -m cascade.demo with the packages that a newcomer has."""

import os

import pytest

from cascade.first_minutes import CAPTIONS, CELL, SCENES, SIDE
from data.index import load
from tests.bare import bare_site
from tests.commands.files import size_of
from tests.commands.processes import ROOT, start


@pytest.mark.matrix
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_first_minutes(tmp_path):
    """`python -m cascade.demo` with hardly any training, and with the packages of `dependencies` alone: what `uv run` installs."""
    (tmp_path / "site").mkdir()
    packages = os.pathsep.join([str(ROOT), str(bare_site(tmp_path / "site"))])
    arguments = ("-S", "-m", "cascade.demo", "--out", tmp_path / "demo", "--base-images", 64, "--sr-images", 32)
    process = start(*arguments, PYTHONPATH=packages)
    said = process.communicate(timeout=500)[1]
    assert process.returncode == 0, said
    width, height = size_of(tmp_path / "demo" / "demo.png")
    assert width == 8 * (CELL + 8)
    assert height > 7 * CELL + width * 4 // 5  # four things in five styles, seven shapes in eight colours
    assert size_of(tmp_path / "demo" / "trained.png") == (SIDE + 4, len(CAPTIONS) * (SIDE + 2) + 2)
    assert size_of(tmp_path / "demo" / "shipped.png")[0] > width
    index = load(tmp_path / "demo" / "shards")
    assert sum(index.num_images.values()) == SCENES
