"""A request is resolved once; everyone later carries its plan."""

import ast
from dataclasses import replace

import pytest
import torch

from cascade.conditions import Conditions
from cascade.output.metadata import describe
from cascade.plan import resolve
from cascade.request import Request
from tests.test_imports import SOURCES, tree

from .chains import tiny


@pytest.fixture(scope="module")
def model():
    return tiny(8, 16, 32, classes=3)


def test_settings_and_sizes_are_made_in_one_place():
    """Others are of single fields of a body, to name the one that is wrong, and of a stage that is judged alone."""
    found: dict[str, set[str]] = {}
    for source in SOURCES:
        for node in ast.walk(tree(source)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                found.setdefault(node.func.id, set()).add(source)
    assert found["with_settings"] == {"cascade/plan.py", "cascade/serve/api/bodies.py", "cascade/judge/painted.py"}
    assert found["asked_size"] == {"cascade/plan.py"}
    assert found["resolve"] == {"cascade/pipeline.py"}


def test_nothing_is_encoded_before_the_work(model, monkeypatch):
    monkeypatch.setattr(Conditions, "of", lambda *_: 1 / 0)
    plan = model.resolve(Request(labels=(1,)))
    assert plan.sizes == [(8, 8), (16, 16), (32, 32)]
    with pytest.raises(ZeroDivisionError):
        model.painting(plan)


@pytest.mark.parametrize("pick", [(), (3,), range(1, 3)])
def test_other_images_of_a_plan_are_what_a_request_for_them_is(model, pick):
    request = Request(num=2, labels=(0, 2), settings={"sr_16": {"num_steps": 3}}, batch=3)
    picked, again = model.resolve(request).picked(pick), model.resolve(replace(request, pick=pick))
    assert [link.settings for link in picked.links] == [link.settings for link in again.links]
    assert (picked.names, picked.sizes, picked.nfe, picked.weight) == (
        again.names,
        again.sizes,
        again.nfe,
        again.weight,
    )
    assert [picked.chunk(k) for k in range(picked.num_chunks)] == [again.chunk(k) for k in range(again.num_chunks)]
    assert list(picked.index) == list(again.index)
    assert list(picked.wanted) == list(again.wanted) == sorted({image // 2 for image in picked.index})


def test_some_of_a_user_s_pictures_are_no_held_pictures_of_ours(model):
    """Nobody has made them: what is computed of them names the stages that it went through, whichever of them are picked."""
    low_res = torch.arange(2, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 8, 8)
    plan = model.resolve(Request(num=2, labels=(0, 2), first="sr_16", low_res=low_res))
    some = plan.picked((3,))
    assert list(describe(some, 3)["stages"]) == ["sr_16", "sr_32"]
    assert describe(some, 3) == describe(plan, 3)
    assert torch.equal(some.request.given((3,)), low_res[1:])
    assert model.painting(some).conds.parts["label"].value.tolist() == [2]
    assert list(some.picked(()).index) == [0, 1, 2, 3]
    for images, says in (((4,), "pick 4 is out of range; 0 to 3 are there"), ((1, 1), "names an image twice")):
        with pytest.raises(ValueError, match=says):
            plan.picked(images)


def test_what_is_said_of_other_stages_is_known_and_the_request_counts_more(model):
    request = Request(last="base_8", settings={"base_8": {"num_steps": 3}})
    plan = resolve(request, model, others={"base_8": {"num_steps": 5}, "sr_32": {"num_steps": 7}})
    assert [link.settings.num_steps for link in plan.chain][::2] == [3, 7]
    assert plan.settings == {"base_8": {"num_steps": 3}, "sr_32": {"num_steps": 7}}
    assert (plan.names, plan.is_whole) == (["base_8"], False)
    with pytest.raises(ValueError, match="no stage 'sr_32', there are base_8"):
        resolve(replace(request, settings={"sr_32": {}}), model)


def test_what_pictures_were_made_by(model):
    held = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    theirs = model.resolve(Request(low_res=held, first="sr_32"))
    ours = model.resolve(Request(low_res=held, first="sr_32", pick=(0,)))
    assert [link.name for link in theirs.made_by] == ["sr_32"]
    assert [link.name for link in ours.made_by] == ["base_8", "sr_16", "sr_32"]
    assert theirs.is_whole
