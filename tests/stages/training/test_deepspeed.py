"""DeepSpeed carries out the updates of the local engine: one process, and two that share the batch; ZeRO 0 to 3, with offload
and without.

What happens in a process is in deepspeed_worker.py; the job of one runs here, the job of two under torchrun.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from stages.training.deepspeed_engine import free_port
from stages.training.deepspeed_settings import DeepSpeedSettings
from stages.training.ema import Ema
from stages.training.engine import OPTIMIZER, WEIGHTS, LocalEngine, State, Update
from stages.training.loop import split
from tests.stages.training import deepspeed_worker
from tests.stages.training.updates import BATCH, HALF_LIFE, MICRO, NUM, build, config, global_batch, lr_of

ROOT = Path(__file__).parents[3]
WORKER = "tests.stages.training.deepspeed_worker"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.matrix,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore:::deepspeed"),
    pytest.mark.filterwarnings("ignore:::torch"),
]


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """What the local engine does: its updates, its state at SAVE_AT in a file, its state and average at the end."""
    engine, stage = LocalEngine(build(), config(), torch.device("cpu")), build()
    ema, updates = Ema(stage, (HALF_LIFE,)), []
    path = tmp_path_factory.mktemp("local") / "state.safetensors"
    for k in range(NUM):
        if k == deepspeed_worker.SAVE_AT:
            save_file(engine.state(), path)
        updates.append(engine.update(split(global_batch(k), MICRO), lr_of(k)))
        ema.update(engine.stage, nimg=(k + 1) * BATCH, batch=BATCH)
    return Local(updates=updates, path=path, end=engine.state(), average=ema.copies()[HALF_LIFE])


@dataclass
class Local:
    updates: list[Update]
    path: Path
    end: State
    average: State


@pytest.fixture(scope="module")
def alone(local, tmp_path_factory) -> Path:
    """The report of one process without a launcher."""
    out, before = tmp_path_factory.mktemp("alone"), dict(os.environ)
    deepspeed_worker.main(out, local.path)
    torch.distributed.destroy_process_group()
    os.environ.clear()
    os.environ.update(before)
    return out


@pytest.fixture(scope="module")
def together(local, tmp_path_factory) -> Path:
    """The report of two processes."""
    out = tmp_path_factory.mktemp("together")
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-addr", "127.0.0.1",
        "--master-port", str(free_port()), "-m", WORKER, str(out), str(local.path),
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stderr[-3000:]
    return out


@pytest.fixture(params=["alone", "together"])
def out(request) -> Path:
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("kind", deepspeed_worker.KINDS)
class TestAllEnginesAreOne:
    def test_losses_norms_weights_moments_and_averages(self, out, kind, local):
        """Five updates of Adam in float32, summed in another order."""
        report = json.loads((out / "report.json").read_text())[kind]
        assert report["world"] == (2 if "together" in out.name else 1)
        assert report["loss"] == pytest.approx([each.loss for each in local.updates], rel=1e-4)
        assert report["grad_norm"] == pytest.approx([each.grad_norm for each in local.updates], rel=1e-3)
        end = load_file(out / kind / "end.safetensors")
        assert end.keys() == local.end.keys()
        assert {name.partition("/")[0] + "/" for name in end} == {WEIGHTS, OPTIMIZER}
        assert_close(end, local.end, rtol=1e-3, atol=1e-4)
        assert_close(load_file(out / kind / "ema.safetensors"), local.average, rtol=1e-3, atol=1e-4)

    def test_measuring_changes_no_number(self, out, kind):
        """With a DeepSpeed file that asks for wall clocks, memory, traffic and FLOPs."""
        report = json.loads((out / "report.json").read_text())[kind]
        assert report["loss_measured"] == report["loss"][:2]

    def test_a_saved_state_goes_on_bit_for_bit(self, out, kind):
        assert json.loads((out / "report.json").read_text())[kind]["same_after_load"]

    def test_the_state_of_another_engine_and_world_size_goes_on(self, out, kind, local):
        """One process, no ZeRO, wrote it: it arrives bit for bit, and the losses that follow are the local engine's."""
        report = json.loads((out / "report.json").read_text())[kind]
        assert report["local_state_arrived"]
        expected = [each.loss for each in local.updates[deepspeed_worker.SAVE_AT :]]
        assert report["loss_from_local"] == pytest.approx(expected, rel=1e-4)

    @pytest.mark.parametrize("where", ["nan_gradient", "nan_loss"])
    def test_a_nan_on_one_rank_is_skipped_by_all(self, out, kind, where):
        assert json.loads((out / "report.json").read_text())[kind][where] == "skipped, nothing moved, then applied"

    def test_half_precision_halves_the_scale_on_overflow(self, out, kind):
        assert json.loads((out / "report.json").read_text())[kind]["fp16"] == [True, 2.0**8, False, 2.0**119]

    def test_ranks_agree(self, out, kind):
        report = json.loads((out / "report.json").read_text())[kind]
        assert report["agreed"] == [True, False, True]
        assert report["total"] == ([2.0, 1.0] if report["world"] == 2 else [1.0, 0.0])


@pytest.mark.parametrize(
    ("user", "told"),
    [
        ({"wall_clock_breakdown": "yes"}, "wall_clock_breakdown is 'yes'; it must be true or false"),
        ({"flops_profiler": True}, "flops_profiler is True; it must be an object"),
        ({"steps_per_print": "x"}, "steps_per_print is 'x'; it must be a whole number"),
        ({"zero_optimization": 5}, "zero_optimization is 5; it must be an object"),
        ({"sparse_gradients": True}, "unknown key 'sparse_gradients'"),
    ],
)
def test_values_that_a_deepspeed_file_cannot_have(user, told):
    with pytest.raises(ValueError, match=f"DeepSpeed file: {told}"):
        DeepSpeedSettings(user=user)


@pytest.mark.usefixtures("alone")
def test_what_deepspeed_refuses_is_one_line():
    user = {"zero_optimization": {"stage": 1, "overlap_com": True}}
    before = dict(os.environ)
    try:
        with pytest.raises(ValueError, match=r"DeepSpeed file: .*overlap_com Extra inputs") as caught:
            deepspeed_worker.start(1, False, user=user)
    finally:
        torch.distributed.destroy_process_group()
        os.environ.clear()
        os.environ.update(before)
    assert "\n" not in str(caught.value)
