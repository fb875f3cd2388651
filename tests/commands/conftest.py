"""Two small trained stages that the commands' tests share, and a command that must be refused.

Commands run in this process through the same wrapper as on the command line; only interrupts need a process of their own.
"""

import shutil

import pytest
import torch

import train
from data.pack.packer import pack
from data.pack.settings import PackSettings
from data.shapes import write_folder
from tests.calling import call

SMALL = """
name: small
stages:
  base_8:
    kind: base
    resolution: 8
    net: &net {widths: [8, 16], blocks: [1, 1], emb_dim: 16}
    cond: &cond {num_classes: 6}
    train: &train {images: 32, batch: 8, workers: 0, warmup: 0, ema: [16], precision: fp32, compile: false,
                   save_every: 16, log_every: 8, grid_every: 32}
    sample: &sample {num_steps: 2, sigma_max: 5.0, sigma_min: 0.02}
  sr_16:
    kind: super_res
    resolution: 16
    low_res: 8
    net: *net
    cond: *cond
    train: *train
    sample: *sample
"""


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shards(tmp_path_factory):
    """64 shapes at 16 px in 8 shards, six classes; not to be changed."""
    folder = tmp_path_factory.mktemp("data")
    pack(write_folder(folder / "shapes", 64, 16), folder / "shards", PackSettings(size=16, shards=8), workers=0)
    return folder / "shards"


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """The YAML of a cascade that trains in a second."""
    path = tmp_path_factory.mktemp("config") / "small.yaml"
    path.write_text(SMALL)
    return path


@pytest.fixture(scope="session")
def trained(shards, small, tmp_path_factory):
    """The --out of two finished runs; not to be changed."""
    out = tmp_path_factory.mktemp("runs") / "small"
    for stage in ("base_8", "sr_16"):
        assert call(train.main, small, stage, "--data", shards, "--out", out) == 0
    return out


@pytest.fixture
def folder(trained, tmp_path):
    """A copy to spoil."""
    return shutil.copytree(trained, tmp_path / "spoilt")


@pytest.fixture
def refused(capsys):
    """Calls a command that must fail with exit 2 and one line; gives the line."""

    def call_it(main, *arguments) -> str:
        capsys.readouterr()
        code = call(main, *arguments)
        lines = capsys.readouterr().err.splitlines()
        assert code == 2, lines
        assert len(lines) == 1, lines
        assert lines[0].startswith("error: ")
        return lines[0]

    return call_it
