"""Control at sampling time: what a request says beyond its descriptions, by an engine and without one, bit for bit the same."""

from dataclasses import replace

import pytest
import torch

from cascade.engine.engine import Engine
from cascade.output.metadata import describe
from cascade.pipeline import Cascade
from cascade.request import Request
from cascade.source import KNOWN, Source
from data.batch import to_float, to_uint8
from data.resize import downsample
from stages.consistency import consistent

from .chains import finished, ideal, pictures, tiny
from .engines import run

SIDE = 16
CORRECTED = {"sr_16": {"consistency": 1.0, "consistency_sigma": 1.0, "colour": 0.5}}


@pytest.fixture(scope="module")
def model():
    return tiny(8, 16, classes=3)


def low_res(num, side=8):
    generator = torch.Generator().manual_seed(5)
    return torch.randint(0, 256, (num, 3, side, side), generator=generator).to(torch.uint8)


def hole(side=SIDE, num=1):
    """The right half, and a corner of the left."""
    mask = torch.zeros(num, 1, side, side, dtype=torch.bool)
    mask[..., side // 2 :] = True
    mask[..., : side // 8, : side // 8] = True
    return mask


PICTURES = low_res(2, SIDE)
ONE = PICTURES[:1]
FEW = {name: {"resample": 3} for name in ("base_8", "sr_16")}
FAINT = {name: {"strength": 0.4} for name in ("base_8", "sr_16")}

CONTROLLED = {
    "inpainting": Request(num=3, seed=1, labels=(1,), source=Source(images=ONE, mask=hole())),
    "each its own": Request(num=2, labels=(1, 2), source=Source(images=PICTURES, mask=hole())),
    "resampling": Request(num=2, labels=(1,), source=Source(images=ONE, mask=hole()), settings=FEW),
    "image to image": Request(num=2, labels=(0, 2), source=Source(images=ONE), settings=FAINT),
    "details alone": Request(
        num=2, source=Source(images=ONE, mask=hole()), first="sr_16", settings={"sr_16": {"strength": 0.5}}
    ),
    "a region of a stage": Request(
        num=4, labels=(1,), pick=(1, 3), source=Source(images=low_res(2), mask=hole(8), stage="base_8")
    ),
    "inversion": Request(num=2, labels=(1,), source=Source(images=ONE, inverted=True, labels=(2,))),
    "large": Request(source=Source(images=low_res(1, 48)[..., :32], mask=hole(48)[..., :32])),
    "consistency": Request(num=3, seed=1, labels=(1,), settings=CORRECTED),
    "of a given picture": Request(num=2, labels=(0, 2), first="sr_16", low_res=low_res(2, 11), settings=CORRECTED),
}


@pytest.mark.parametrize("name", CONTROLLED)
def test_an_engine_gives_the_bits_of_cascade_sample(model, name):
    request = CONTROLLED[name]
    (events,) = run(Engine(model), request)
    assert torch.equal(finished(events), finished(model.sample(request)))


@pytest.mark.parametrize("name", CONTROLLED)
def test_an_image_does_not_depend_on_its_batch(model, name):
    request = CONTROLLED[name]
    together, alone = finished(model.sample(request)), finished(model.sample(replace(request, batch=1)))
    assert (together.int() - alone.int()).abs().max() <= 1


def test_consistency_at_the_end_is_the_formula_on_what_the_stage_gave(model):
    given = low_res(1)
    plain, corrected = (
        finished(model.sample(Request(first="sr_16", low_res=given, settings={"sr_16": {"consistency": weight}})))
        for weight in (0.0, 1.0)
    )
    space = model.links[1].stage.space
    expected = space.store(consistent(space.load(plain), space.load(given), space, 1.0))
    assert not torch.equal(plain, corrected)
    assert (expected.int() - corrected.int()).abs().max() <= 1  # plain was rounded before


def test_a_stage_without_a_picture_has_nothing_to_agree_with(model):
    for key in ("consistency", "colour", "consistency_sigma"):
        with pytest.raises(ValueError, match=f"settings of stage base_8: {key}: this stage enlarges no picture"):
            model.resolve(Request(settings={"base_8": {key: 0.5}}))


KEPT = {
    name: request
    for name, request in CONTROLLED.items()
    if request.source is not None and request.source.mask is not None
}


@pytest.mark.parametrize("name", KEPT)
def test_known_pixels_are_the_given_ones(model, name):
    """Bit for bit at the size of the source; the others are not all the same."""
    request = KEPT[name]
    found = finished(model.sample(request), request.source.stage)
    source = request.sources(tuple(request.index))
    known = ~source.mask.expand_as(found)
    assert torch.equal(found[known], source.images[known])
    assert (found != source.images)[~known].float().mean() > 0.5


@pytest.mark.parametrize("hidden", [0, 255])
def test_nothing_of_what_is_painted_over_is_seen(model, hidden):
    other = torch.where(hole(), torch.full_like(ONE, hidden), ONE)
    found, same = (
        finished(model.sample(Request(num=2, source=Source(images=images, mask=hole())))) for images in (ONE, other)
    )
    assert torch.equal(found, same)


def test_a_smaller_source_is_the_kernel_s_mean_of_known_pixels():
    """Whole where all is known; of one colour where its known pixels are; known as far as its kernel sees KNOWN of it."""
    shrunk = Source(images=PICTURES, mask=hole(num=2)).at((4, 4))
    far = Source(images=PICTURES).at((4, 4))
    assert torch.equal(far.images, to_uint8(downsample(to_float(PICTURES), (4, 4))))
    assert not far.known.any()
    assert shrunk.known[0, 0].int().tolist() == [[0, 1, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0]]
    share = 1 - downsample(hole().float(), (4, 4))
    assert torch.equal(shrunk.known[:1], share >= KNOWN)
    one_colour = Source(images=torch.where(hole(), 0, 255).to(torch.uint8).expand(1, 3, -1, -1), mask=hole()).at((4, 4))
    assert (one_colour.images[one_colour.known.expand(-1, 3, -1, -1)] == 255).all()


def test_strength_1_does_not_see_the_picture_of_a_stage(model):
    """Of a source that only the second stage starts from, the first stage's picture is that of a request without one."""
    plain = finished(model.sample(Request(num=2, seed=4)), "base_8")
    source = Source(images=ONE)
    request = Request(num=2, seed=4, source=source, settings={"sr_16": {"strength": 0.3}})
    assert torch.equal(finished(model.sample(request), "base_8"), plain)


def test_a_strength_that_reaches_sigma_max_leaves_no_ghost(model):
    """Of a stage that starts at 0.3, where the strength says 0.5, the picture is that of one that does not see the source."""
    low = {"sr_16": {"sigma_max": 0.3, "strength": 0.5}, "base_8": {"strength": 0.5}}
    request = Request(num=2, source=Source(images=ONE), settings=low)
    events = list(model.sample(request))
    alone = Request(
        num=2, low_res=finished(events, "base_8"), first="sr_16", pick=(0, 1), settings={"sr_16": {"sigma_max": 0.3}}
    )
    assert torch.equal(finished(events), finished(model.sample(alone)))


def test_less_strength_keeps_more_of_the_picture():
    """The ideal denoiser of a set gives back a picture of it from little noise, and another one from much."""
    images = pictures(8, 8)
    model = ideal(images, sizes=(8,), num_steps=8)
    kept = []
    for strength in (0.1, 0.5, 0.9, 0.99):
        source = Source(images=to_uint8(images[:1]))
        request = Request(num=32, batch=32, source=source, settings={"base_8": {"strength": strength}})
        found = finished(model.sample(request))
        kept.append((found == source.images).flatten(1).all(1).float().mean().item())
    assert kept[0] == kept[1] == 1
    assert kept[3] < 0.5


def test_an_inverted_picture_comes_back(model):
    """Up and down under one description: the picture again. Under another the noise is the same and the picture is not."""
    images = pictures(6, 8)
    labels = torch.arange(6) % 2
    model = ideal(images, sizes=(8,), labels=labels, sampler="heun", num_steps=60, sigma_min=0.01)
    source = Source(images=to_uint8(images[:1]), inverted=True, labels=(0,))
    found = finished(model.sample(Request(labels=(0, 1), source=source)))
    assert torch.equal(found[0], source.images[0])
    assert labels[(to_uint8(images) == found[1]).flatten(1).all(1)].tolist() == [1]


def test_refining_a_held_picture_of_a_source_is_what_was_not_held(model):
    request = CONTROLLED["inpainting"]
    events = list(model.sample(request))
    held = finished(events, "base_8")[[2]]
    again = replace(request, first="sr_16", low_res=held, pick=(2,))
    assert (finished(model.sample(again)).int() - finished(events)[[2]].int()).abs().max() <= 1


def test_what_a_picture_was_painted_over_is_in_its_metadata(model):
    said = describe(model.resolve(CONTROLLED["each its own"]), 3)["source"]
    alone = Request(num=2, labels=(2,), source=Source(images=PICTURES[1:], mask=hole()))
    assert said == describe(model.resolve(alone), 1)["source"]
    assert said.keys() == {"shape", "sha256", "mask"}


REFUSED = {
    "the mask is 8x8 px, its picture 16x16": lambda: Source(images=ONE, mask=hole(8)),
    "the mask is empty": lambda: Source(images=ONE, mask=torch.zeros_like(hole())),
    "the mask is everywhere": lambda: Source(images=ONE, mask=torch.ones_like(hole())),
    "mask must be bool": lambda: Source(images=ONE, mask=hole().float()),
    "source must be uint8": lambda: Source(images=ONE.float()),
    "it is not inverted": lambda: Source(images=ONE, labels=(1,)),
    "2 sources and 3 prompts": lambda: Request(labels=(0, 1, 2), source=Source(images=PICTURES)),
    "2 sources for 1 picked": lambda: Request(num=3, pick=(1,), source=Source(images=PICTURES)),
    "both a source and a size": lambda: Request(size=(16, 16), source=Source(images=ONE)),
}
UNRESOLVED = {
    "no stage 'sr_61' of a source": Request(source=Source(images=ONE, mask=hole(), stage="sr_61")),
    "strength 0.4: no source to start from": Request(settings=FAINT),
    "resample 3: nothing is known": Request(settings=FEW),
    "sampler heun: resample 3 takes Euler's steps": Request(
        source=Source(images=ONE, mask=hole()), settings={"base_8": {"resample": 3, "sampler": "heun"}}
    ),
    "neither mask nor strength": Request(source=Source(images=ONE)),
    "not above its sigma_min": Request(source=Source(images=ONE), settings={"base_8": {"strength": 0.001}}),
    "strength: Input should be less": Request(source=Source(images=ONE), settings={"base_8": {"strength": 1.5}}),
    "18x16 px does not suit": Request(source=Source(images=low_res(1, 18)[..., :16, :], mask=hole(18)[..., :16, :])),
    "a source of 1 channels": Request(source=Source(images=ONE[:, :1], mask=hole())),
}


@pytest.mark.parametrize("says", REFUSED)
def test_a_source_that_cannot_be(says):
    with pytest.raises(ValueError, match=says):
        REFUSED[says]()


def test_resampling_tells_the_sampler_that_it_is(model):
    """So metadata name it, and the resolved settings resolve again."""
    plan = model.resolve(CONTROLLED["resampling"])
    settings = {link.name: link.settings.model_dump() for link in plan.links}
    assert {each["sampler"] for each in settings.values()} == {"euler"}
    again = model.resolve(replace(CONTROLLED["resampling"], settings=settings))
    assert [link.settings for link in again.links] == [link.settings for link in plan.links]


def test_what_the_manifest_says_of_sources_is_for_requests_that_have_one(model):
    """Others are made as if it said nothing; those that have one as if they had said it themselves, whose word is the last."""
    said = {"strength": 0.7, "resample": 3}
    links = [replace(link, settings=link.settings.model_copy(update=said)) for link in model.links]
    saying, source = Cascade(links), Source(images=ONE, mask=hole())
    both = {name: said for name in ("base_8", "sr_16")}
    plain, masked = Request(labels=(1,)), Request(labels=(1,), source=source)
    faint = replace(masked, source=Source(images=ONE))
    once = replace(masked, settings={name: {"resample": 1} for name in both})
    for request, same in (
        (plain, plain),
        (masked, replace(masked, settings=both)),
        (faint, replace(faint, settings={name: {"strength": 0.7} for name in both})),
        (once, replace(masked, settings={name: {"strength": 0.7} for name in both})),
    ):
        found, expected = saying.resolve(request), model.resolve(same)
        assert [link.settings for link in found.links] == [link.settings for link in expected.links]
        assert torch.equal(finished(saying.sample(request)), finished(model.sample(same)))
        again = {link.name: link.settings.model_dump() for link in found.links}
        assert saying.resolve(replace(request, settings=again)).links[0].settings == found.links[0].settings


@pytest.mark.parametrize("says", UNRESOLVED)
def test_a_source_that_does_not_suit_the_cascade(model, says):
    with pytest.raises(ValueError, match=says):
        model.resolve(UNRESOLVED[says])
