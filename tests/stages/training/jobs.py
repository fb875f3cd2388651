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
        environment = os.environ | {"OMP_NUM_THREADS": "1", "TORCHELASTIC_MAX_RESTARTS": "0"}
        return subprocess.run(
            [sys.executable, *launcher, *self.command(*more, accident=accident)],
            cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280,
        )  # fmt: skip

    def ranks(self, *more: str, world: int, accident: str) -> list[tuple[int, str]]:
        """Without a launcher that ends the others when one has died: (exit code, stderr) of each rank."""
        common = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        started = [
            subprocess.Popen(
                [sys.executable, *self.command(*more, accident=accident)], cwd=ROOT, text=True,
                env=os.environ | common | {"OMP_NUM_THREADS": "1", "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            )
            for rank in range(world)
        ]  # fmt: skip
        told = [process.communicate(timeout=280)[1] for process in started]
        return [(process.returncode, text) for process, text in zip(started, told, strict=True)]

    def command(self, *more: str, accident: str) -> list[str]:
        """faulty_train.py and its arguments."""
        arguments = [str(self.cascade), "base_8", "--data", str(self.shards), "--out", str(self.out), *more]
        return [SCRIPT, *accident.split(), *arguments]


def torchrun(world: int) -> list[str]:
    return [
        "-m", "torch.distributed.run", "--nproc-per-node", str(world), "--master-addr", "127.0.0.1",
        "--master-port", str(free_port()),
    ]  # fmt: skip


def write_cascade(path: Path, **train: object) -> Path:
    config = base_config(**train)
    path.write_text(yaml.safe_dump({"name": "tiny", "stages": {"base_8": config.model_dump(mode="json")}}))
    return path
