"""What a run tells: log lines on disk, curves, the plain line; in real run directories."""

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from stages.training.engine import Update
from stages.training.rundir import RunDir
from stages.training.watch import Watch, duration
from tests.stages.tiny import base_config

ROOT = Path(__file__).parents[3]
CPU = torch.device("cpu")

pytestmark = pytest.mark.filterwarnings("ignore:::tensorboard")


@pytest.fixture
def run(tmp_path) -> RunDir:
    made = RunDir(tmp_path / "run")
    made.open(base_config(), "data")
    return made


def update(loss: float, norm: float = 1.0, applied: bool = True) -> Update:
    return Update(loss=loss, grad_norm=norm, losses=(), applied=applied)


def lines_of(run: RunDir) -> list[dict]:
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    return [json.loads(line, parse_constant=refuse) for line in run.metrics.read_text().splitlines()]


def curves_of(run: RunDir) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(run.path / "tensorboard"))
    read.Reload()
    return {tag: [(event.step, event.value) for event in read.Scalars(tag)] for tag in read.Tags()["scalars"]}


def test_means_since_the_last_line(run):
    watch = Watch(run, nimg=0, images=48, name="base_8")
    for nimg, losses in ((16, (1.0, 3.0)), (32, (5.0, 6.0))):
        for loss in losses:
            watch.update(update(loss, norm=2 * loss), batch=8)
        watch.log(nimg, lr=0.5, device=CPU)
    watch.close()
    first, second = lines_of(run)
    assert (first["nimg"], first["loss"], first["grad_norm"], first["lr"]) == (16, 2.0, 4.0, 0.5)
    assert (second["nimg"], second["loss"], second["grad_norm"]) == (32, 5.5, 11.0)
    assert curves_of(run)["loss"] == [(16, 2.0), (32, 5.5)]


def test_skipped_updates_are_counted_and_stay_out_of_the_means(run):
    watch = Watch(run, nimg=0, images=48, name="base_8")
    for loss, applied in ((1.0, True), (math.nan, False), (7.0, False)):
        watch.update(update(loss, applied=applied), batch=8)
    watch.log(24, lr=0.5, device=CPU)
    watch.update(update(2.0), batch=8)
    watch.log(32, lr=0.5, device=CPU)
    watch.close()
    assert [(line["loss"], line["skipped"]) for line in lines_of(run)] == [(1.0, 2), (2.0, 0)]


def test_what_is_not_finite_is_null_and_no_point_of_a_curve(run):
    watch = Watch(run, nimg=0, images=48, name="base_8")
    watch.update(update(math.nan, math.inf, applied=False), batch=8)
    watch.log(8, lr=0.5, device=CPU, facts={"val_loss": math.nan, "loss_q1": -math.inf, "scale": 2.0})
    watch.close()
    (line,) = lines_of(run)
    assert [line[key] for key in ("loss", "grad_norm", "val_loss", "loss_q1", "scale")] == [None] * 4 + [2.0]
    assert curves_of(run).keys() & {"loss", "val_loss", "loss_q1", "scale"} == {"scale"}


def test_rates_by_hand(run):
    """16 images in about 0.2 s, half of it waiting, on two devices; 32 of 48 are left."""
    watch = Watch(run, nimg=0, images=48, name="base_8", world=2, train_flops=10**9)
    started = time.monotonic()
    time.sleep(0.2)
    watch.waited(0.1)
    watch.update(update(1.0), batch=16)
    watch.log(16, lr=0.5, device=CPU)
    elapsed = time.monotonic() - started
    watch.close()
    (line,) = lines_of(run)
    assert 16 / elapsed <= line["img_per_s"] <= 16 / 0.2
    assert line["img_per_s_per_device"] == line["img_per_s"] / 2
    assert line["eta_s"] == pytest.approx(32 / line["img_per_s"])
    assert 0.1 / elapsed <= line["wait"] <= 0.5
    assert line["memory_mb"] > 10
    assert "mfu" not in line  # a CPU's peak is not known


def test_mfu_where_the_peak_is_known(run, monkeypatch, capsys):
    """A device of 1 TFLOP/s, 1 GFLOP an image, two of them: the share is a five hundredth of the rate in thousands."""
    monkeypatch.setattr("stages.training.watch.peak_flops", lambda device: 1e12)
    watch = Watch(run, nimg=0, images=48, name="base_8", world=2, train_flops=10**9)
    time.sleep(0.02)
    watch.log(16, lr=0.5, device=CPU)
    watch.close()
    (line,) = lines_of(run)
    assert line["mfu"] == pytest.approx(line["img_per_s"] / 2 * 1e9 / 1e12)
    assert f"MFU {100 * line['mfu']:.1f} %" in capsys.readouterr().err


def test_without_a_terminal_there_is_a_line_an_interval(run, capsys):
    watch = Watch(run, nimg=8, images=1048, name="base_8")
    for waited, loss in ((0.0, 1.0), (5.0, 2.0)):
        time.sleep(0.01)
        watch.waited(waited)
        watch.update(update(loss), batch=8)
        watch.update(update(math.nan, applied=False), batch=8)
        watch.log(24 if loss == 1 else 40, lr=0.5, device=CPU, facts={"val_loss": 0.25})
    watch.close()
    first, second = [line for line in capsys.readouterr().err.splitlines() if line.startswith("base_8: ")]
    assert first.startswith("base_8: 24 of 1,048 img, loss 1.0000, val 0.2500, 1 skipped, ")
    assert " img/s, " in first
    assert first.endswith(" s left")
    assert "waiting" not in first
    assert "waiting 100 %" in second


def test_at_the_end_nothing_is_left(run):
    watch = Watch(run, nimg=40, images=48, name="base_8")
    watch.log(56, lr=0.5, device=CPU)
    watch.log(56, lr=0.5, device=CPU)
    watch.close()
    assert [line["eta_s"] for line in lines_of(run)] == [0, None]  # no rate, no guess


@pytest.mark.parametrize(("seconds", "said"), [(59, "59 s"), (90, "1.5 min"), (5400, "1.5 h"), (129600, "1.5 days")])
def test_durations(seconds, said):
    assert duration(seconds) == said


def test_a_missing_wandb_is_told_before_anything_is_written(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match="pip install wandb"):
        Watch(run, nimg=0, images=48, name="base_8", wandb="cascades")
    assert not (run.path / "tensorboard").exists()
    assert not run.metrics.exists()


WANDB = """
import sys
from pathlib import Path
import torch
from stages.training.engine import Update
from stages.training.rundir import RunDir
from stages.training.watch import Watch
for nimg in (8, 16):
    watch = Watch(RunDir(Path(sys.argv[1])), nimg=nimg - 8, images=16, name="base_8", wandb="cascades")
    watch.update(Update(loss=1.0, grad_norm=1.0, losses=()), batch=8)
    watch.log(nimg, lr=0.5, device=torch.device("cpu"), facts={"val_loss": float("nan")})
    watch.grid(torch.zeros(3, 8, 8, dtype=torch.uint8), nimg)
    watch.close()
"""


@pytest.mark.slow
def test_wandb_offline(run):
    """The real package, offline; a resume goes on in the same W&B run."""
    pytest.importorskip("wandb")
    environment = os.environ | {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", WANDB, str(run.path)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    name = (run.path / "wandb_id").read_text()
    parts = [path for path in (run.path / "wandb").iterdir() if path.name.startswith("offline-run-")]
    assert parts
    assert all(path.name.endswith(name) for path in parts)
