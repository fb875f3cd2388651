"""sample.py --prompts-file: prompts of a file or of a pipe."""

import subprocess
import sys

import pytest

from cascade.cli import lines_of
from cascade.output.pictures import read_metadata
from tests.commands.processes import ROOT


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbfred heart\r\n\r\ngreen apple",
        "red heart\ngreen apple\n".encode("utf-16"),
        b"  red heart\x0c\rgreen apple\n",
    ],
)
def test_prompts_of_a_file(tmp_path, content):
    (tmp_path / "prompts.txt").write_bytes(content)
    assert lines_of(tmp_path / "prompts.txt") == ["red heart", "green apple"]


def test_prompts_with_separators_that_are_no_line_ends(tmp_path):
    (tmp_path / "prompts.txt").write_text("a\u2028b\nc\x0cd\x85e\n", encoding="utf-8")
    assert lines_of(tmp_path / "prompts.txt") == ["a\u2028b", "c\x0cd\x85e"]


def test_prompts_that_are_piped_in(tmp_path):
    arguments = ("sample.py", "--prompts-file", "-", "--num", 1, "--steps", 1, "--out", f"{tmp_path}/out/")
    piped = "\ufeffred heart\n\nblue circle\n".encode()
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=ROOT, input=piped, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert [read_metadata(path)["prompts"] for path in sorted((tmp_path / "out").iterdir())] == [
        ["red heart"],
        ["blue circle"],
    ]
