"""Starts train.py in the background, in one process or in several under torch's launcher, with its own log and devices."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from stages.training.deepspeed_engine import free_port

TRAIN = Path(__file__).parents[2] / "train.py"
OF_LAUNCHERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")


class TrainingProcess:
    """One `train.py` in the background. It has its own session, so a Ctrl-C at the terminal reaches it only through `tell`."""

    def __init__(
        self,
        stage: str,
        arguments: tuple[str, ...],
        log: Path,
        *,
        processes: int = 1,
        devices: tuple[str, ...] = (),
        threads: int = 0,
    ):
        """threads: number for each process, unless OMP_NUM_THREADS is set; 0 lets train.py choose."""
        self.threads = threads
        self.stage, self.arguments, self.log, self.processes, self.devices = stage, arguments, log, processes, devices
        self._process: subprocess.Popen[bytes] | None = None
        self._told: set[int] = set()

    def start(self) -> None:
        """Start in the background; output is appended to the log."""
        launcher = []
        if self.processes > 1:
            port = ("--master-addr", "127.0.0.1", "--master-port", str(free_port()))
            launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(self.processes), *port]
        environment = {key: value for key, value in os.environ.items() if key not in OF_LAUNCHERS}
        if self.threads:
            environment.setdefault("OMP_NUM_THREADS", str(self.threads))
        if self.devices:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(self.devices)
        command = [sys.executable, *launcher, str(TRAIN), *self.arguments]
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    @property
    def is_running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def code(self) -> int | None:
        """The exit code; None before the start and while it runs."""
        return self._process.poll() if self._process else None

    @property
    def ended_well(self) -> bool:
        """Whether it finished, or stopped at a signal of `tell`: after a save, or before there was anything to save."""
        return self.code == 0 or bool(self._told and self.code == -signal.SIGTERM)

    def tell(self, number: int) -> None:
        """Send a signal once to each training process, since a second one would end it without a save. Torch's launcher gets none:
        it would give its processes half a minute and report a failure."""
        if self._process is None or not self.is_running:
            return
        targets = children(self._process.pid) if self.processes > 1 else [self._process.pid]
        for pid in targets:
            if pid not in self._told:
                self._told.add(pid)
                try:
                    os.kill(pid, number)
                except ProcessLookupError:
                    continue

    def kill(self) -> None:
        """Kill all its processes and wait for the end."""
        if self._process and self.is_running:
            for pid in [*children(self._process.pid), self._process.pid]:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            self._process.wait()

    def last_line(self) -> str:
        """The last `error: ` line of the log, else its last line."""
        with self.log.open("rb") as log:
            log.seek(max(self.log.stat().st_size - 20_000, 0))
            lines = [line.strip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("error: ")]
        return (errors or lines or ["nothing was logged"])[-1]


def children(pid: int) -> list[int]:
    """Process ids of the direct children of a process, from /proc or, where that is missing, from ps."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        output = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
        return [int(child) for child, parent in map(str.split, output.splitlines()) if int(parent) == pid]
