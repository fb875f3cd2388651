"""What others rely on is as tests/frozen/ says; `python -m tests.surface --write` writes it anew where a change is meant."""

import json
from typing import Any

import pytest
import torch

from tests import surface


@pytest.fixture(scope="module")
def now() -> dict[str, Any]:
    torch.set_num_threads(1)
    return json.loads(json.dumps(surface.surface()))


@pytest.mark.parametrize("name", ["commands", "yaml", "sampling", "files", "openapi", "models"])
def test_the_surface_is_as_frozen(now, name):
    lines = surface.changes(surface.frozen(name), now[name])
    told = "\n".join(lines)
    assert not lines, f"{name} changed; if that is meant: python -m tests.surface --write\n{told}"


def test_nothing_frozen_is_left_unlooked_at(now):
    assert {path.stem for path in surface.FROZEN.iterdir()} == set(now)


def test_changes_are_told_by_their_dotted_key():
    before = {"a": {"b": 1, "gone": None}, "c": [1, 2], "same": {}}
    assert surface.changes(before, before) == []
    assert surface.changes(before, {"a": {"b": 1.0}, "c": [1, 2, 3], "same": {}}) == [
        "- a.b: 1",
        "+ a.b: 1.0",
        "- a.gone: null",
        "+ c[2]: 3",
    ]


def test_prose_is_left_out_and_keys_of_that_name_are_not():
    schema = {"title": "T", "description": "d", "properties": {"title": {"type": "string", "description": "x"}}}
    assert surface.without_prose(schema) == {"properties": {"title": {"type": "string"}}}
