"""What all commands share: help without torch, and exit codes of interrupts and of files that end too early."""

import os
import subprocess
import sys

import pytest

from data.cli import run
from tests.commands.processes import ROOT


def test_a_pipe_that_ends_too_early_is_no_interrupt(monkeypatch):
    """The library that parses options takes every EOFError for Ctrl-D, which would hide a fault of ours behind exit code 130."""

    def main() -> None:
        raise EOFError("marshal data too short")

    monkeypatch.setattr(sys, "argv", ["it"])
    with pytest.raises(RuntimeError, match="a file or a pipe ended too early") as raised:
        run(main)
    assert isinstance(raised.value.__cause__, EOFError)


@pytest.mark.parametrize(
    ("script", "wanted"),
    [
        ("train.py", "CASCADE STAGE overrides --data --out --images --engine --help"),
        ("sample.py", "prompts --cascade --num --seed --image --out --help"),
    ],
)
def test_help_lists_the_fixed_options(script, wanted):
    """Without importing torch: it comes at once."""
    done = subprocess.run([sys.executable, script, "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
    words = done.stdout.lower()
    assert [word for word in wanted.lower().split() if word not in words] == []
    assert not done.stderr


def test_an_interrupt_while_a_dataclass_is_made_ends_with_130(tmp_path):
    """CPython would end by SIGINT itself, without a word of code that caught it."""
    (tmp_path / "job.py").write_text(
        "from data.cli import run\n\ndef main():\n    exec('raise KeyboardInterrupt')\n\nrun(main)\n"
    )
    paths = os.pathsep.join([str(ROOT), str(tmp_path)])
    job = [sys.executable, "-m", "job"]
    done = subprocess.run(
        job, env=os.environ | {"PYTHONPATH": paths}, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 130
    assert done.stderr == "interrupted\n"
