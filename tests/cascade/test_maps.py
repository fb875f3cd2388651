"""Maps in requests: each stage gets them at its size, image k its own; requests that do not fit are refused."""

import pytest
import torch

from cascade import Request
from cascade.engine.canvas import Canvas
from cascade.pipeline import Cascade
from data.batch import to_float
from data.resize import downsample
from stages.config import CondConfig
from tests.cascade.chains import finished, tiny_config, write_cascade

MAPS = CondConfig(maps={"channels": 1})


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Cascade:
    """base_8 and sr_16, both trained with maps, with random weights."""
    config = tiny_config()
    stages = {name: stage.model_copy(update={"cond": MAPS}) for name, stage in config.stages.items()}
    folder = write_cascade(tmp_path_factory.mktemp("maps"), config.model_copy(update={"stages": stages}))
    return Cascade.load(folder)


def maps(num: int, side: int = 24) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (num, 1, side, side), generator=generator, dtype=torch.uint8)


def test_each_map_makes_its_own_picture(model):
    both = finished(model.sample(Request(maps=maps(2), num=2)))
    assert len(both) == 4
    first = finished(model.sample(Request(maps=maps(2)[:1], num=2)))
    assert (both[:2].int() - first.int()).abs().max() <= 1
    swapped = finished(model.sample(Request(maps=maps(2).flip(0), num=2)))
    assert (swapped[0].int() - both[0].int()).abs().max() > 2
    none = finished(model.sample(Request(num=2)))
    assert (none[0].int() - both[0].int()).abs().max() > 2


def test_a_canvas_has_the_map_where_the_picture_is(model):
    config = model.links[1].sidecar.config
    canvas = Canvas.of(config, (12, 20), continued=True)
    given = to_float(maps(1, 40))
    whole = canvas.mapped(given)
    assert whole.shape[2:] == canvas.size
    inner = canvas.cut(whole)
    assert torch.allclose(inner, downsample(given, (12, 20)))
    assert (whole[..., 0, :].unique() == inner[..., 0, :].unique()).all()


def test_other_sizes_and_picks_go_with_maps(model):
    wide = finished(model.sample(Request(maps=maps(1), size=(16, 24))))
    assert wide.shape[-2:] == (16, 24)
    low = torch.randint(0, 256, (1, 3, 6, 10), dtype=torch.uint8)
    assert finished(model.sample(Request(maps=maps(1), low_res=low, first="sr_16"))).shape[-2:] == (12, 20)
    whole = finished(model.sample(Request(maps=maps(3))))
    picked = finished(model.sample(Request(maps=maps(3), pick=(2,))))
    assert (picked[0].int() - whole[2].int()).abs().max() <= 1


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"maps": torch.zeros(1, 1, 8, 8)}, "maps must be uint8"),
        ({"maps": maps(1)[0]}, "maps must be uint8"),
        ({"maps": maps(2), "labels": (0, 1, 2)}, "2 maps for 3 descriptions or pictures"),
        ({"maps": maps(3), "labels": (0, 1)}, "3 maps for 2 descriptions or pictures"),
        ({"maps": maps(1).expand(-1, 3, -1, -1)}, "maps of 3 channels, this cascade takes 1; convert them"),
    ],
)
def test_what_does_not_fit_is_refused(model, asked, told):
    with pytest.raises(ValueError, match=told):
        model.resolve(Request(**asked))


def test_a_cascade_without_maps_takes_none(tmp_path):
    model = Cascade.load(write_cascade(tmp_path, tiny_config()))
    with pytest.raises(ValueError, match="maps, but this cascade takes none"):
        model.resolve(Request(maps=maps(1)))
