"""Being told to stop: a command ends with code 130, and an import is left without an exception."""

import signal
import subprocess
import sys

import pytest

WAITS = """
import time
try:
    print("waits", flush=True)
    time.sleep(60)
except BaseException as error:
    print(type(error).__name__, flush=True)
    raise
"""


def stopped(command: str, signum: signal.Signals) -> tuple[str, str, int]:
    """What a process says on stdout and stderr after it said that it waits and got a signal, and its exit code."""
    process = subprocess.Popen(
        [sys.executable, "-c", command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "waits\n"
    process.send_signal(signum)
    rest, told = process.communicate(timeout=60)
    return rest, told, process.returncode


@pytest.mark.parametrize("importing", [True, False])
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_command_is_interrupted_but_not_an_import(tmp_path, importing, signum):
    """Raised in an import KeyboardInterrupt may reach the C++ or Rust of a library, which abort: exit code -6."""
    (tmp_path / "waits.py").write_text(WAITS)
    body = "import waits" if importing else f"exec({WAITS!r})"
    command = f"import sys\nfrom data.cli import run\nsys.path.insert(0, {str(tmp_path)!r})\ndef main():\n    {body}\nrun(main)\n"
    assert stopped(command, signum) == ("" if importing else "KeyboardInterrupt\n", "interrupted\n", 130)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_short_import_ends_first_and_what_was_begun_is_cleared_away(tmp_path, signum):
    """Libraries import within their functions: a stop there left the folder of a packing behind."""
    (tmp_path / "waits.py").write_text('import time\nprint("waits", flush=True)\ntime.sleep(0.5)\n')
    command = f"""
import sys, time
from data.cli import run
sys.path.insert(0, {str(tmp_path)!r})
def main():
    try:
        import waits
        time.sleep(60)
    finally:
        print("cleared away", flush=True)
run(main)
"""
    assert stopped(command, signum) == ("cleared away\n", "interrupted\n", 130)
