"""The script for a quarter of an hour on a GPU runs: every part that a CPU can try, with small networks. Nobody who has a GPU for
a quarter of an hour shall find out that it does not."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from data.pack.packer import PackSettings, pack

ROOT = Path(__file__).parents[1]
PARTS = ("updates eager", "reference stages eager", "sampling", "ZeRO", "loader", "training")


@pytest.mark.slow
@pytest.mark.matrix
@pytest.mark.timeout(900)
def test_every_part_that_a_cpu_can_try(tmp_path):
    pack(ROOT / "data" / "emoji64", tmp_path / "shards", PackSettings(size=64, text_encoder="minilm", val=0.05))
    script = [
        sys.executable,
        str(ROOT / "tests" / "bench" / "gpu.py"),
        "--out",
        str(tmp_path / "out"),
        "--device",
        "cpu",
    ]
    script += ["--shards", str(tmp_path / "shards"), "--quick", "--seconds", "700", "--only", ",".join(PARTS)]
    script += ["--override", "train.images=64", "--override", "train.val_images=16"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(script, capture_output=True, text=True, env=environment, timeout=800)
    assert run.returncode == 0, run.stderr
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert "failed" not in json.dumps(found), found
    assert found.keys() - {"machine"} == set(PARTS)
    assert all(found["ZeRO"][name]["largest difference"] < 1e-5 for name in ("zero-0", "zero-1", "zero-2", "zero-3"))
    assert found["training"]["last"]["nimg"] == 64
    assert (tmp_path / "out" / "ema.safetensors.0").stat().st_size > 1e6
    assert "theirs / ours" in (tmp_path / "out" / "results.md").read_text()
