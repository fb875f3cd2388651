"""Control at sampling time: what a request says beyond its descriptions, by an engine and without one, bit for bit the same."""

from dataclasses import replace

import pytest
import torch

from cascade.engine.engine import Engine
from cascade.request import Request
from stages.consistency import consistent

from .chains import finished, tiny
from .engines import run

CORRECTED = {"sr_16": {"consistency": 1.0, "consistency_sigma": 1.0, "colour": 0.5}}


@pytest.fixture(scope="module")
def model():
    return tiny(8, 16, classes=3)


def low_res(num, side=8):
    generator = torch.Generator().manual_seed(5)
    return torch.randint(0, 256, (num, 3, side, side), generator=generator).to(torch.uint8)


CONTROLLED = {
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
