"""Jobs as a cluster runs them: train.py in processes of its own, alone or under torchrun, with accidents."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import yaml

from stages.training.deepspeed_engine import free_port
from tests.stages.tiny import base_config

ROOT = Path(__file__).parents[3]
SCRIPT = str(Path(__file__).with_name("faulty_train.py"))


@dataclass(frozen=True)
class Job:
    """A cascade of one tiny stage, the shards it reads and the folder it writes."""

    cascade: Path
    shards: Path
    out: Path

    @property
    def run(self) -> Path:
        return self.out / "base_8"

    def train(self, *more: str, world: int = 1, accident: str = "none 0 0") -> subprocess.CompletedProcess:
        """Runs to the end, whatever it is. world 0: train.py alone with the local engine; else under torchrun with DeepSpeed."""
        launcher = [] if world == 0 else torchrun(world)
        arguments = [str(self.cascade), "base_8", "--data", str(self.shards), "--out", str(self.out), *more]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "TORCHELASTIC_MAX_RESTARTS": "0"}
        return subprocess.run(
            [sys.executable, *launcher, SCRIPT, *accident.split(), *arguments],
            cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280,
        )  # fmt: skip


def torchrun(world: int) -> list[str]:
    return [
        "-m", "torch.distributed.run", "--nproc-per-node", str(world), "--master-addr", "127.0.0.1",
        "--master-port", str(free_port()),
    ]  # fmt: skip


def write_cascade(path: Path, **train: object) -> Path:
    config = base_config(**train)
    path.write_text(yaml.safe_dump({"name": "tiny", "stages": {"base_8": config.model_dump(mode="json")}}))
    return path
