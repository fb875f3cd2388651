"""The table of systems in stages/README.md: every name can be imported, every key can be set, every test is there."""

import json
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
HEADING = "## By the field's names\n"


def rows() -> list[tuple[str, list[str], list[str], list[str]]]:
    """System, Python names, keys or options, tests."""
    text = (ROOT / "stages/README.md").read_text().partition(HEADING)[2].partition("\n## ")[0]
    found = []
    for row in re.findall(r"^\|.*\|$", text, re.MULTILINE)[2:]:
        system, *cells = row.strip("|").split("|")
        names, set_by, tests = (re.findall(r"`([^`]+)`", cell) for cell in cells)
        found.append((system.strip(), names, set_by, tests))
    return found


def keys(schema: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
    """The dotted keys of a JSON schema, those of all alternatives."""
    for name, inner in schema.get("properties", {}).items():
        yield ".".join((*path, name))
        yield from keys(inner, (*path, name))
    for kind in ("oneOf", "anyOf"):
        for inner in schema.get(kind, ()):
            yield from keys(inner, path)


@pytest.fixture(scope="module")
def known() -> set[str]:
    """Keys of a stage in the YAML, and commands with each of their options."""
    yaml = json.loads((ROOT / "tests/frozen/yaml.json").read_text())
    (stage,) = yaml["properties"]["stages"]["patternProperties"].values()
    commands = json.loads((ROOT / "tests/frozen/commands.json").read_text())
    called = {name if name.endswith(".py") else f"python -m {name}": said["options"] for name, said in commands.items()}
    return {*keys(stage), *called, *(f"{name} {option}" for name, said in called.items() for option in said)}


def test_the_table_is_found():
    assert len(rows()) >= 30
    assert all(names and set_by and tests for _, names, set_by, tests in rows())


@pytest.mark.parametrize(("system", "names", "set_by", "tests"), rows(), ids=[row[0] for row in rows()])
def test_a_row_is_true(system, names, set_by, tests, known):
    for name in names:
        module, _, attribute = name.rpartition(".")
        assert hasattr(import_module(module), attribute), name
    assert set(set_by) <= known, f"{system}: {sorted(set(set_by) - known)}"
    for test in tests:
        path, _, name = test.partition("::")
        assert re.search(rf"^(def|class) {name or '!'}[(:]", (ROOT / path).read_text(), re.MULTILINE), test
