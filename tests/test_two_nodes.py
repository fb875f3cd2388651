"""Two nodes, as far as one machine can show it: two launcher groups of one process each, joined over loopback, train bit for bit
what one group of two processes trains. With torch's launcher and with DeepSpeed's, which here runs without ssh, once on each node.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from data.pack.packer import pack
from data.pack.settings import PackSettings
from data.shapes import write_folder
from stages.training.deepspeed_engine import free_port

ROOT = Path(__file__).parents[1]
TINY = """
name: tiny
stages:
  base_8:
    kind: base
    resolution: 8
    net: {widths: [8, 16], blocks: [1, 1], emb_dim: 16}
    cond: {num_classes: 6}
    train: {images: 48, batch: 8, workers: 1, warmup: 0, ema: [16], precision: fp32, compile: false,
            save_every: 24, log_every: 8, grid_every: 48}
"""
TIMES = {"img_per_s", "img_per_s_per_device", "wait", "memory_mb", "eta_s", "save_stall_s"}
TORCH = [sys.executable, "-m", "torch.distributed.run", "--master-addr", "127.0.0.1"]
DEEPSPEED = [sys.executable, "-m", "deepspeed.launcher.runner", "--master_addr", "127.0.0.1"]

pytestmark = [pytest.mark.slow, pytest.mark.matrix, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """shards/, tiny.yaml, and hostfile: this machine by two names, one process on each."""
    made = tmp_path_factory.mktemp("nodes")
    pack(write_folder(made / "shapes", 64, 16), made / "shards", PackSettings(size=16, shards=8, val=0.1), workers=0)
    (made / "tiny.yaml").write_text(TINY)
    (made / "hostfile").write_text("localhost slots=1\n127.0.0.1 slots=1\n")
    return made


def train(folder: Path, out: Path, *launchers: list[str]) -> Path:
    """Starts train.py under each launcher at once; the run directory when all have ended."""
    words = ["train.py", "tiny.yaml", "base_8", "--data", "shards", "--out", str(out), "--device", "cpu", "--zero", "1"]
    arguments = [str(ROOT / words[0]), str(folder / words[1]), *words[2:4], str(folder / words[4]), *words[5:]]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    started = [
        subprocess.Popen(
            [*launcher, *arguments],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for launcher in launchers
    ]
    for process in started:
        told, _ = process.communicate(timeout=280)
        assert process.returncode == 0, told[-3000:]
    return out / "base_8"


@pytest.fixture(scope="module")
def one_node(folder) -> Path:
    return train(folder, folder / "one", [*TORCH, "--master-port", str(free_port()), "--nproc-per-node", "2"])


def result(run: Path) -> tuple[list[dict], bytes, bytes]:
    """What a run has to show but times: log, bundle, last state."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    log = [{key: value for key, value in line.items() if key not in TIMES} for line in lines]
    state = run / "checkpoints" / "nimg-0000000048" / "state.safetensors"
    return log, (run / "bundle" / "ema.safetensors").read_bytes(), state.read_bytes()


def test_the_comparison_means_something(one_node):
    log, bundle, state = result(one_node)
    assert [line["nimg"] for line in log] == [8, 16, 24, 32, 40, 48]
    assert {"loss", "grad_norm", "val_loss"} <= log[-1].keys()
    assert len({line["loss"] for line in log}) == 6
    assert min(len(bundle), len(state)) > 10_000
    assert json.loads((one_node / "environment.json").read_text())["world"] == 2


def test_torch_s_launcher_on_two_nodes(folder, one_node):
    port = str(free_port())
    nodes = [
        [*TORCH, "--master-port", port, "--nnodes", "2", "--node-rank", str(rank), "--nproc-per-node", "1"]
        for rank in (0, 1)
    ]
    assert result(train(folder, folder / "torch", *nodes)) == result(one_node)


def test_deepspeed_s_launcher_on_one_node(folder, one_node):
    launcher = [*DEEPSPEED, "--master_port", str(free_port()), "--num_accelerators", "2"]
    assert result(train(folder, folder / "deepspeed_one", launcher)) == result(one_node)


def test_deepspeed_s_launcher_on_two_nodes(folder, one_node):
    """By a hostfile, without ssh: the same command on each node, with its rank."""
    common = [*DEEPSPEED, "--master_port", str(free_port()), "--hostfile", str(folder / "hostfile"), "--no_ssh"]
    nodes = [[*common, "--node_rank", str(rank)] for rank in (0, 1)]
    assert result(train(folder, folder / "deepspeed", *nodes)) == result(one_node)
