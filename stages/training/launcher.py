"""Ends the training when its launcher has ended. Nobody waits for the training then, and DeepSpeed's launcher does not even
forward SIGTERM."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import psutil

from data.line import say

POLL_S = 1.0
LAUNCHERS = {
    "torchrun", "torch.distributed.run", "torch.distributed.launch",
    "deepspeed", "deepspeed.launcher.runner", "deepspeed.launcher.launch",
    "cascade.launch",
}  # fmt: skip


def stop_with_launcher() -> None:
    """Watch the launchers among this process's ancestors; when one has ended, send SIGTERM to this process."""
    if launchers := [process for process in psutil.Process().parents() if is_launcher(process)]:
        threading.Thread(target=_watch, args=(launchers,), name="launcher", daemon=True).start()


def is_launcher(process: psutil.Process) -> bool:
    """Whether a command line is a launcher's: a program's name, or a module's after -m."""
    try:
        return any(Path(arg).name in LAUNCHERS for arg in process.cmdline()[:6])
    except psutil.Error:
        return False


def has_ended(process: psutil.Process) -> bool:
    """Whether a process has ended, including zombies that their parent has not reaped yet."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _watch(launchers: list[psutil.Process]) -> None:
    while True:
        time.sleep(POLL_S)
        for process in launchers:
            if has_ended(process):
                say(f"the launcher, process {process.pid}, has ended: so does the training", sys.stderr)
                os.kill(os.getpid(), signal.SIGTERM)
                return
