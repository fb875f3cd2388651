"""Which tests run where, and that .ci/run can be trusted: what is skipped for a missing program fails there."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.programs import PROGRAMS, Program

ROOT = Path(__file__).parents[1]
CONFTEST = (ROOT / "tests" / "conftest.py").read_text()
pytest_plugins = "pytester"


@pytest.fixture
def suite(pytester):
    """A suite of the user's own under tests/conftest.py."""
    pytester.makeconftest(CONFTEST)
    pytester.makepyprojecttoml('[tool.pytest]\nmarkers = ["matrix"]\ntestpaths = ["."]\n')
    pytester.makepyfile(
        test_a="import pytest\ndef test_quick(): pass\n@pytest.mark.matrix\ndef test_jobs(): pass\n",
        test_b="import pytest\n@pytest.mark.skipif(True, reason='needs a GPU')\ndef test_gpu(): pass\n",
    )
    return pytester


@pytest.mark.parametrize(
    ("told", "passed"),
    [((), 1), (("--all",), 2), (("--all", "-m", "matrix"), 1), (("test_a.py",), 2), (("test_a.py::test_jobs",), 1)],
)
def test_jobs_of_several_processes_run_when_asked_for(suite, told, passed):
    assert suite.runpytest(*told).parseoutcomes()["passed"] == passed


def test_ci_runs_every_test_once():
    """The README's command leaves out what the other two run, and nothing else; what runs alone is of the matrix, too."""
    lines = (ROOT / ".ci" / "run").read_text()
    files = '$(grep -rl --include="test_*.py" "mark\\.{}" tests)\n'
    jobs = 'uv run --no-sync pytest -q --all -n 3 --dist loadfile -m "matrix and not alone" '
    assert jobs + files.format("matrix") in lines
    assert "uv run --no-sync pytest -q --all -m alone " + files.format("alone") in lines
    for path in (ROOT / "tests").rglob("*.py"):  # no mark comes from elsewhere than from a file that grep finds
        assert path.name.startswith("test_") or "mark." + "matrix" not in path.read_text(), path
    assert "--no-missing" in lines
    _, _, block = (ROOT / "README.md").read_text().partition("<!-- test command -->\n```bash\n")
    assert block.partition("```")[0].strip().endswith("pytest -q -n 2 --dist loadfile")
    for path in (ROOT / "tests").rglob("test_*.py"):
        text = path.read_text()
        assert text.count("mark." + "alone") <= text.count("mark." + "matrix"), path


@pytest.mark.parametrize(
    "skipped",
    [
        "import pytest\n@pytest.mark.skipif(True, reason='missing: chromium; ...')\ndef test_page(): pass\n",
        "import pytest\ndef test_page(): pytest.skip('no browser')\n",
        "import pytest\npytest.importorskip('no_such_package')\ndef test_page(): pass\n",
        "import pytest\n@pytest.fixture\ndef page(): pytest.skip('no browser')\ndef test_page(page): pass\n",
    ],
    ids=["mark", "call", "import", "fixture"],
)
def test_a_skip_for_what_is_missing_fails_where_nothing_may_be(suite, skipped):
    suite.makepyfile(test_page=skipped)
    found = suite.runpytest()
    assert found.ret == 0
    assert found.parseoutcomes()["skipped"] == 2
    found = suite.runpytest("--no-missing")
    assert found.ret != 0
    assert found.parseoutcomes().keys() & {"failed", "errors", "error"}
    found.stdout.fnmatch_lines("*--no-missing: was skipped (*")


def test_an_honest_skip_stays_one(suite):
    found = suite.runpytest("--no-missing")
    assert (found.ret, found.parseoutcomes()) == (0, {"passed": 1, "skipped": 1, "deselected": 1})


def test_an_expected_failure_is_no_skip(suite):
    suite.makepyfile(test_x="import pytest\n@pytest.mark.xfail\ndef test_x(): assert False\n")
    assert suite.runpytest("--no-missing").ret == 0


def test_the_list_of_programs_needs_nothing_installed():
    """As .ci/run asks on a clean machine: packages by name, of what the path does not hold."""
    command = [sys.executable, "-I", "-S", str(ROOT / "tests" / "programs.py")]
    done = subprocess.run(command, env=os.environ | {"PATH": ""}, capture_output=True, text=True, check=True)
    found = [
        program for program in PROGRAMS if any(name.startswith("/") and Path(name).exists() for name in program.names)
    ]
    assert done.stdout.split() == [program.debian for program in PROGRAMS if program not in found]
    assert Program(("no-such-program", "sh"), "x").path


def test_only_the_tests_bring_the_development_group():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["uv"]["default-groups"] == []
    assert "uv run --group dev " in (ROOT / "README.md").read_text()
