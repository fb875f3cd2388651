"""Commands in processes of their own, and their interrupts."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]


def start(*arguments, **environment: str) -> subprocess.Popen:
    """A command in a process group of its own, as a terminal has it."""
    inherited = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env=inherited | {"OMP_NUM_THREADS": "1"} | environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def interrupt(process: subprocess.Popen, when, told: int = signal.SIGINT) -> list[str]:
    """Ctrl-C, or another signal to the group, as soon as when() holds; what the process said on stderr."""
    try:
        deadline = time.monotonic() + 120
        while not when():
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline, "never came so far"
            time.sleep(0.02)
        os.killpg(process.pid, told)
        return process.communicate(timeout=30)[1].splitlines()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
