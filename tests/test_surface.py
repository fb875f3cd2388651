"""What others rely on is as tests/frozen/ says; `python -m tests.surface --write` writes it anew where a change is meant."""

import json

import pytest
import torch

from tests import surface


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    torch.set_num_threads(1)


SLOW = {"plans": [pytest.mark.matrix, pytest.mark.slow, pytest.mark.timeout(900)]}  # builds every stage of every preset


@pytest.mark.parametrize("name", [pytest.param(name, marks=SLOW.get(name, [])) for name in surface.SURFACE])
def test_the_surface_is_as_frozen(name):
    lines = surface.changes(surface.frozen(name), json.loads(json.dumps(surface.SURFACE[name]())))
    told = "\n".join(lines)
    assert not lines, f"{name} changed; if that is meant: python -m tests.surface --write\n{told}"


def test_nothing_frozen_is_left_unlooked_at():
    assert {path.stem for path in surface.FROZEN.iterdir()} == set(surface.SURFACE)


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
