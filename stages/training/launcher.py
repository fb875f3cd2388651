"""The launchers above a training process. When one of them has ended, however it did, nobody waits for the training any more, and
DeepSpeed's does not even pass SIGTERM on: the training takes its end for that signal."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import psutil

POLL_S = 1.0
LAUNCHERS = {
    "torchrun", "torch.distributed.run", "torch.distributed.launch",
    "deepspeed", "deepspeed.launcher.runner", "deepspeed.launcher.launch",
    "cascade.launch",
}  # fmt: skip


def stop_with_launcher() -> None:
    """Sends SIGTERM to this process when a launcher among its ancestors has ended."""
    if launchers := [each for each in psutil.Process().parents() if is_launcher(each)]:
        threading.Thread(target=_watch, args=(launchers,), name="launcher", daemon=True).start()


def is_launcher(process: psutil.Process) -> bool:
    """By its command line: a program's name, or a module's after -m."""
    try:
        return any(Path(word).name in LAUNCHERS for word in process.cmdline()[:6])
    except psutil.Error:
        return False


def has_ended(process: psutil.Process) -> bool:
    """Also where its own parent has not taken note of it yet."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _watch(launchers: list[psutil.Process]) -> None:
    while True:
        time.sleep(POLL_S)
        for each in launchers:
            if has_ended(each):
                print(f"the launcher, process {each.pid}, has ended: so does the training", file=sys.stderr)
                os.kill(os.getpid(), signal.SIGTERM)
                return
