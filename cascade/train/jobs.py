"""A training as a job of its own: train.py in one process, or in several under torch's launcher, with its own log and devices."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from stages.training.deepspeed_engine import free_port

TRAIN = Path(__file__).parents[2] / "train.py"
OF_LAUNCHERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")


class Job:
    """One `train.py`. It has a session of its own, so a Ctrl-C at the terminal reaches it only through `tell`."""

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
        """threads: of each process, unless OMP_NUM_THREADS says otherwise; 0 leaves them to it."""
        self.threads = threads
        self.stage, self.arguments, self.log, self.processes, self.devices = stage, arguments, log, processes, devices
        self._process: subprocess.Popen[bytes] | None = None
        self._told: set[int] = set()

    def start(self) -> None:
        """Runs in the background; output goes to the end of the log."""
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
        return self._process is not None and self._process.poll() is None

    @property
    def code(self) -> int | None:
        """The exit code, None while it runs."""
        return self._process.poll() if self._process else None

    @property
    def ended_well(self) -> bool:
        """Done, or stopped because it was told to: with a save, or before there was anything to save."""
        return self.code == 0 or bool(self._told and self.code == -signal.SIGTERM)

    def tell(self, number: int) -> None:
        """Sends a signal once to each training process, for a second one would end it without a save. Torch's launcher is passed
        over: it would give its processes half a minute and call the end a failure."""
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
        """Ends it and all its processes at once."""
        if self._process and self.is_running:
            for pid in [*children(self._process.pid), self._process.pid]:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            self._process.wait()

    def last_line(self) -> str:
        """The error that train.py told, or else the last line of the log."""
        with self.log.open("rb") as log:
            log.seek(max(self.log.stat().st_size - 20_000, 0))
            lines = [line.strip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]
        told = [line for line in lines if line.startswith("error: ")]
        return (told or lines or ["nothing was logged"])[-1]


def children(pid: int) -> list[int]:
    """Direct children of a process, by /proc or, where there is none, by ps."""
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
        return [int(own) for own, parent in map(str.split, listed.splitlines()) if int(parent) == pid]
