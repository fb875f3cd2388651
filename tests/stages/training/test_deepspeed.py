"""DeepSpeed carries out the updates of the local engine: one process, and two that share the batch; ZeRO 0 and 1.

What happens in a process is in deepspeed_worker.py; the job of one runs here, the job of two under torchrun.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from stages.training.engine import LocalEngine, free_port
from stages.training.loop import split
from tests.stages.training import deepspeed_worker
from tests.stages.training.updates import MICRO, NUM, build, config, global_batch, lr_of

ROOT = Path(__file__).parents[3]
WORKER = "tests.stages.training.deepspeed_worker"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore:::deepspeed"),
    pytest.mark.filterwarnings("ignore:::torch"),
]


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    """The report of one process without a launcher."""
    out, before = tmp_path_factory.mktemp("alone"), dict(os.environ)
    deepspeed_worker.main(out)
    torch.distributed.destroy_process_group()
    os.environ.clear()
    os.environ.update(before)
    return out


@pytest.fixture(scope="module")
def together(tmp_path_factory) -> Path:
    """The report of two processes."""
    out = tmp_path_factory.mktemp("together")
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-addr", "127.0.0.1",
        "--master-port", str(free_port()), "-m", WORKER, str(out),
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stderr[-3000:]
    return out


@pytest.fixture(scope="module")
def local():
    """Losses, gradient norms and weights of the local engine."""
    engine = LocalEngine(build(), config(), torch.device("cpu"))
    updates = [engine.update(split(global_batch(k), MICRO), lr_of(k)) for k in range(NUM)]
    return updates, dict(engine.stage.named_parameters())


@pytest.fixture(params=["alone", "together"])
def out(request) -> Path:
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("zero", ["zero0", "zero1"])
class TestBothEnginesAreOne:
    def test_losses_norms_and_weights(self, out, zero, local):
        """Five updates of Adam in float32, summed in another order."""
        updates, weights = local
        report = json.loads((out / "report.json").read_text())[zero]
        assert report["world"] == (2 if "together" in out.name else 1)
        assert report["loss"] == pytest.approx([each.loss for each in updates], rel=1e-4)
        assert report["grad_norm"] == pytest.approx([each.grad_norm for each in updates], rel=1e-3)
        found = load_file(out / zero / "weights.safetensors")
        for name, weight in weights.items():
            assert_close(found[name], weight.detach(), rtol=1e-3, atol=1e-4)

    def test_a_saved_state_goes_on_bit_for_bit(self, out, zero):
        assert json.loads((out / "report.json").read_text())[zero]["same_after_load"]

    @pytest.mark.parametrize("where", ["nan_gradient", "nan_loss"])
    def test_a_nan_on_one_rank_stops_all_and_moves_nothing(self, out, zero, where):
        assert json.loads((out / "report.json").read_text())[zero][where] == "refused, 0 weights moved"
