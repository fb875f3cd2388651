"""Requests to stop where there is nothing to save: an import is left without an exception, anything else with one."""

import io
import signal
import subprocess
import sys

import pytest

from data.line import say
from stages.training.signals import Stopped, StopSignals
from tests.told import Told

WAITS = """
import sys, time
try:
    print("waits", flush=True)
    time.sleep(60)
except BaseException as error:
    print(type(error).__name__, flush=True)
    raise
"""
BEGINS = """
import sys
from data.line import say
from stages.training.signals import StopSignals
StopSignals(at_once=True).__enter__()
"""


@pytest.mark.parametrize(
    ("importing", "signum", "code", "raised"),
    [
        (True, signal.SIGTERM, 0, ""),
        (True, signal.SIGINT, 130, ""),
        (False, signal.SIGTERM, 0, "Stopped"),
        (False, signal.SIGINT, None, "KeyboardInterrupt"),
    ],
)
def test_an_import_is_left_without_an_exception(tmp_path, importing, signum, code, raised):
    """Raised in an import it may reach the C++ or Rust of a library, which abort: exit code -6, about once in sixty stops."""
    (tmp_path / "waits.py").write_text(WAITS)
    body = f"sys.path.insert(0, {str(tmp_path)!r})\nimport waits" if importing else WAITS
    process = subprocess.Popen([sys.executable, "-c", BEGINS + body], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "waits\n"
    process.send_signal(signum)
    rest, _ = process.communicate(timeout=60)
    assert rest.strip() == raised
    assert code is None or process.returncode == code


def test_a_stop_in_the_midst_of_a_line_ends_as_any_other(tmp_path, monkeypatch):
    """Its own line would go through the stream that is being written: RuntimeError, and exit code 1."""
    with io.TextIOWrapper(io.BufferedWriter(Told(tmp_path / "said")), encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        with pytest.raises(Stopped), StopSignals(at_once=True):
            say("packs", stream)
    assert "told to stop before the first update" in (tmp_path / "said").read_text()
