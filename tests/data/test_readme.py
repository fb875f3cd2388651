"""The commands of data/README.md work as they are written."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from data.index import load

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.matrix
def test_commands_of_the_readme(tmp_path):
    shutil.copytree(ROOT / "data", tmp_path / "data", ignore=shutil.ignore_patterns("__pycache__"))
    text = (ROOT / "data" / "README.md").read_text()
    blocks = re.findall(r"(?<!-->\n)```bash\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 8
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euc", "\n".join(blocks)],
        cwd=tmp_path, env=os.environ | {"PATH": path, "no_proxy": "127.0.0.1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    large, small = load(tmp_path / "shards/emoji"), load(tmp_path / "shards/emoji16")
    assert (large.size, small.size) == ((64, 64), (16, 16))
    assert large.num_images == small.num_images
    assert large.classes == small.classes
    assert "50 of 50 captions drawn right" in done.stdout
    assert load(tmp_path / "shards/world").num_images == {"train": 50, "test": 50}
    assert "pictures/inside: 50 pictures of 64 px" in done.stdout
    assert f"{large.num_images['val']} pictures held out" in done.stdout
    assert "captions drawn: text 0.6 (392 pictures), group+text 0.3 (392 pictures), none 0.1" in done.stdout
    assert "the same batch: True" in done.stdout
    assert "torch.Size([64, 3, 64, 64]) torch.Size([64, 16, 384]) 6400" in done.stdout
