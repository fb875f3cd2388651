"""The original size and positions in a cascade: what a stage is told by default, by a setting, and for a part of the chain."""

import pytest
import torch

from cascade import Request
from cascade.cli import with_said
from cascade.engine.host import own_host
from cascade.link import Link
from cascade.pipeline import Cascade
from stages.build import build_stage
from stages.conditions.original_size import read
from stages.conditions.position import positions
from stages.config import CondConfig
from tests.cascade.chains import finished, random_weights, sidecar, tiny_config


def model(drop: float = 0.1) -> Cascade:
    """base_8 and sr_16, told original sizes, the second one also positions, with random weights."""
    links = []
    told = CondConfig(original_size={"drop": drop})
    for name, config in tiny_config().stages.items():
        of_crops = {"crop": 8, "cond": CondConfig(original_size={"drop": drop}, position={})}
        config = config.model_copy(update=of_crops if config.takes else {"cond": told})
        stage = build_stage(config)
        stage.load_state_dict(random_weights(config))
        links.append(
            Link(name=name, hosts=own_host(name, stage.eval()), sidecar=sidecar(config), settings=config.sample)
        )
    return Cascade(links)


@pytest.fixture
def told(monkeypatch):
    """What the networks are told, by stage and size of x: {(resolution, h, w): (sizes, position)}."""
    from stages.stage import Stage

    found, denoise = {}, Stage.denoise

    def listening(self, x, sigma, cond):
        position = cond.value("position")
        found[self.config.resolution, *x.shape[2:]] = (
            cond.value("original_size")[0],
            position if position is None else position[0],
        )
        return denoise(self, x, sigma, cond)

    monkeypatch.setattr(Stage, "denoise", listening)
    return found


def test_by_default_each_stage_is_told_the_size_of_its_picture(told):
    cascade = model()
    whole = finished(cascade.sample(Request(size=(16, 32))))
    sizes = torch.tensor([[8, 16], [16, 32]])
    assert set(told) == {(8, 8, 16), (16, 32, 48)}  # with a margin of 8 px where sides are not the stage's own
    assert torch.equal(told[8, 8, 16][0], read(sizes, 8)[0])
    assert torch.equal(told[16, 32, 48][0], read(sizes, 16)[1])
    assert torch.equal(told[16, 32, 48][1][:, 8:-8, 8:-8], positions((16, 32)))
    told.clear()
    first = finished(cascade.sample(Request(size=(8, 16), last="base_8")))
    assert torch.equal(told[8, 8, 16][0], read(sizes, 8)[0])
    told.clear()
    refined = finished(cascade.sample(Request(low_res=first, pick=(0,), first="sr_16")))
    (sizes_told, _), *_ = told.values()
    assert torch.equal(sizes_told, read(sizes, 16)[1])
    assert (refined.int() - whole.int()).abs().max() <= 1


def test_a_setting_says_another_one(told):
    cascade = model()
    settings = with_said(cascade, {}, ["original_size=64,48", "base_8.original_size=0,0"])
    assert settings == {"base_8": {"original_size": ["0", "0"]}, "sr_16": {"original_size": ["64", "48"]}}
    one = finished(cascade.sample(Request(settings=settings)))
    assert torch.equal(told[16, 16, 16][0], read(torch.tensor([[64, 48]]), 16)[0])
    assert (one.int() - finished(cascade.sample(Request())).int()).abs().max() > 2


@pytest.mark.parametrize(
    ("cascade", "said", "message"),
    [
        (Cascade, (8, 8), r"stage base_8: original_size \(8, 8\): this stage was trained without it; leave it out"),
        (lambda _: model(drop=0.0), (0, 0), r"stage base_8: original_size \(0, 0\): this stage was always told one"),
        (lambda _: model(), (0, 8), r"original_size \(0, 8\): write height and width above 0"),
    ],
)
def test_what_a_stage_cannot_follow_is_refused(cascade, said, message):
    from tests.cascade.chains import tiny

    with pytest.raises(ValueError, match=message):
        cascade(tiny().links).resolve(Request(settings={"base_8": {"original_size": said}}))
