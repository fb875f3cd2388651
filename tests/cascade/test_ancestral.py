"""A new sampler costs its file, its test and the frozen lists: one that draws noise and has an option of its own is registered, and
nothing else is told of it. Processes of their own, for the keys of settings are made of the samplers that there are at import."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.matrix


def passes(*tests: str) -> None:
    """In a process that knows the sampler from its start."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        "-p",
        "tests.cascade.ancestral",
        *tests,
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]


def test_whatever_paints_paints_with_it():
    passes("tests/cascade/ancestral_checks.py")


def test_what_holds_of_every_sampler_holds_of_it():
    passes(
        "tests/stages/diffusion/test_samplers.py",
        "tests/stages/test_sampling.py",
        "tests/stages/test_texts.py",
        "tests/cascade/test_ideal.py",
        "tests/cascade/test_pipeline.py",
        "tests/test_docs.py::test_every_field_of_a_stage_is_documented",
    )
