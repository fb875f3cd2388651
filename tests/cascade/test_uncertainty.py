"""Maps of uncertainty: the std of normal data's posterior in closed form, at each preview and, for the picture, at sigma_data."""

import pytest
import torch

from cascade.engine.canvas import Canvas
from cascade.events import Preview, StageFinished
from cascade.request import Request
from cascade.uncertainty import Uncertainty, as_picture
from stages.diffusion.samplers import Answer, Query
from tests.cascade.chains import finished
from tests.cascade.unsure import fresh

SIGMA_DATA = 0.5
CANVAS = Canvas(size=(4, 6), inner=(4, 6), edge=0, factor=1, scale=1)


def gray(share: float) -> int:
    return round(255 * min(share, 1) ** 0.5)


def test_every_preview_has_the_posterior_std_of_its_level():
    """Of normal data without low_res: Var(x0 | x) / sigma_data^2 = sigma^2 / (sigma^2 + sigma_data^2)."""
    model = fresh()
    events = list(model.sample(Request(num=2, uncertainty=True, last="base_8")))
    maps = [event.uncertainty for event in events if isinstance(event, Preview)]
    levels = model.links[0].settings.sigmas[:-1]
    assert len(maps) == len(levels) == 4
    for found, sigma in zip(maps, levels.tolist(), strict=True):
        assert (found.shape, found.dtype) == ((2, 3, 8, 8), torch.uint8)
        expected = torch.full_like(found, gray(sigma**2 / (sigma**2 + SIGMA_DATA**2)))
        torch.testing.assert_close(found.int(), expected.int(), rtol=0, atol=1)
    (end,) = (event for event in events if isinstance(event, StageFinished))
    (first,) = (k for k in range(4) if levels[k] <= SIGMA_DATA < (levels[k - 1] if k else torch.inf))
    assert torch.equal(end.uncertainty, maps[first])


def test_a_super_resolution_stage_knows_more_by_its_low_res():
    model = fresh()
    events = list(model.sample(Request(num=1, uncertainty=True)))
    stage, settings = model.links[1].stage, model.links[1].settings
    aug = torch.tensor([settings.aug_sigma])
    maps = [event.uncertainty for event in events if isinstance(event, Preview) and event.stage == "sr_16"]
    for found, sigma in zip(maps, settings.sigmas[:-1].tolist(), strict=True):
        share = 1 / stage.parametrisation.weight(torch.tensor([sigma]), aug).item() / SIGMA_DATA**2
        assert found.shape == (1, 3, 16, 16)
        torch.testing.assert_close(found.int(), torch.full_like(found, gray(share)).int(), rtol=0, atol=1)
    assert maps[0].max() < 255


def test_pictures_are_the_same_with_and_without():
    model = fresh()
    plain, asked = (list(model.sample(Request(num=2, seed=3, uncertainty=each))) for each in (False, True))
    assert torch.equal(finished(plain), finished(asked))
    assert all(event.uncertainty is None for event in plain if isinstance(event, Preview | StageFinished))


def test_of_rows_that_are_asked_apart_each_keeps_its_own_level():
    """Image 0 comes to sigma_data at once, image 1 in its third answer; later answers change neither."""
    follows = Uncertainty(sigma_data=SIGMA_DATA)

    def tell(rows, sigmas, var):
        x = torch.zeros(len(sigmas), 3, 4, 6)
        query = Query(x, torch.tensor(sigmas), None if rows is None else torch.tensor(rows))
        follows(query, Answer(x, torch.full_like(x, var)))

    tell(None, [0.5, 3.0], 0.01)
    tell([1], [1.0], 0.04)
    tell([1], [0.4], 0.0025)
    tell(None, [0.1, 0.1], 0.0001)
    assert [each.unique().tolist() for each in as_picture(follows.kept, CANVAS)] == [[51], [26]]
    assert as_picture(follows.now, CANVAS).unique().tolist() == [5]


def test_channels_are_averaged_and_cells_of_several_px_are_as_large():
    var = torch.tensor([0.0, 0.0, 0.0, 0.04 * 4]).reshape(1, 4, 1, 1).expand(1, 4, 2, 3)
    follows = Uncertainty(sigma_data=SIGMA_DATA)
    follows(Query(torch.zeros(1, 4, 2, 3), torch.ones(1)), Answer(torch.zeros(1, 4, 2, 3), var))
    found = as_picture(follows.now, Canvas(size=(4, 6), inner=(3, 5), edge=0, factor=1, scale=2))
    assert (tuple(found.shape), found.unique().tolist()) == ((1, 3, 3, 5), [102])


@pytest.mark.parametrize(
    ("able", "last", "told"),
    [
        ((), "", "base_8, sr_16 cannot tell it, trained without learned_variance; no stage of this cascade can, leave"),
        (("sr_16",), "base_8", "base_8 cannot tell it, trained without learned_variance; of this cascade sr_16 can"),
    ],
)
def test_a_request_that_no_stage_of_it_can_follow_is_refused(able, last, told):
    with pytest.raises(ValueError, match=f"request: uncertainty: {told}"):
        fresh(able).resolve(Request(uncertainty=True, last=last))


def test_stages_that_cannot_stand_aside():
    events = list(fresh(("base_8",)).sample(Request(uncertainty=True)))
    maps = {event.stage: event.uncertainty is not None for event in events if isinstance(event, StageFinished)}
    assert maps == {"base_8": True, "sr_16": False}
