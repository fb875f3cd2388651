"""sample.py ends early, by a signal, a full disk or a reader that leaves, and loses no finished picture."""

import os
import signal
import subprocess
import sys

import pytest

import sample
from tests.calling import call
from tests.commands.files import files, size_of
from tests.commands.processes import ROOT, interrupt, start


@pytest.mark.matrix
def test_ctrl_c_and_a_full_disk_lose_no_finished_picture_of_a_grid(trained, tmp_path):
    """It is said where they are, and the same command goes on; a grid that is too large for the disk, too."""
    out = tmp_path / "out.png"
    arguments = ("--cascade", trained, "--num", 400, "--batch", 2, "--out", out)
    process = start("sample.py", *arguments)
    parts = tmp_path / "out.parts"
    lines = interrupt(process, lambda: parts.is_dir() and len(files(parts)) > 4)
    assert process.returncode == 130
    done = len(files(parts))
    assert lines[-2:] == [f"{done} of 400 images are in {parts}; the same command goes on from there", "interrupted"]
    assert files(tmp_path) == [f"out.parts/{k:06d}.png" for k in range(done)]
    process = start("-c", FULL, "sample.py", *arguments)
    lines = process.communicate(timeout=300)[1].splitlines()
    assert process.returncode == 2
    assert lines[-2] == f"400 of 400 images are in {parts}; the same command goes on from there"
    assert "File too large" in lines[-1]
    assert len(files(tmp_path)) == 400
    assert call(sample.main, *arguments) == 0
    assert files(tmp_path) == ["out.png"]
    assert size_of(out) == (20 * 18 + 2, 20 * 18 + 2)


FULL = """
import os, resource, runpy, signal, sys
os.environ["PYTHONDONTWRITEBYTECODE"], sys.dont_write_bytecode = "1", True  # see tests/full_disk.py
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_a_reader_that_leaves_and_a_terminal_without_letters_end_nothing(trained, tmp_path):
    """`sample.py ... | head -1`, where stdout is ASCII and the folder is not."""
    out = tmp_path / "b\N{LATIN SMALL LETTER U WITH DIAERESIS}cher"
    env = os.environ | {"PYTHONIOENCODING": "ascii:strict", "OMP_NUM_THREADS": "1"}
    arguments = ("sample.py", "--cascade", trained, "--num", 40, "--batch", 1, "--out", f"{out}/")
    with subprocess.Popen(
        [sys.executable, *map(str, arguments)], cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        first = process.stdout.readline()
        process.stdout.close()
        said = process.stderr.read().decode()
        assert process.wait(timeout=120) == 0, said
    assert first.endswith(b"/b\\xfccher/000000.png\n")
    assert "Error" not in said
    assert len(files(out)) == 40


@pytest.mark.matrix
@pytest.mark.parametrize("told", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stop_while_sampling_leaves_whole_files_only(trained, tmp_path, told):
    out = tmp_path / "out"
    process = start("sample.py", "--cascade", trained, "--num", 10**6, "--batch", 2, "--out", f"{out}/")
    lines = interrupt(process, lambda: out.is_dir() and len(files(out)) > 4, told)
    assert process.returncode == 130
    found = files(out)
    assert lines[-2:] == [
        f"{len(found)} of {10**6} images are in {out}; the same command goes on from there", "interrupted",
    ]  # fmt: skip
    assert "Traceback" not in "".join(lines)
    assert found == [f"{k:06d}.png" for k in range(len(found))]
    for name in found:
        assert size_of(out / name) == (16, 16)
