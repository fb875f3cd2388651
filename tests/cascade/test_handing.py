"""Stages that stop early: what the next one is given and told, previews, refusals; by the manifest, a request, the command line."""

import json
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from cascade import Cascade, Request
from cascade.config import CascadeConfig
from cascade.engine.engine import Engine
from cascade.engine.host import Host, own_host
from cascade.link import Link
from cascade.manifest import MANIFEST
from cascade.output.pictures import read_png
from data.batch import Cond, to_uint8
from data.resize import downsample
from sample import main
from stages.build import build_stage
from stages.config import BaseConfig, SampleConfig
from stages.diffusion.samplers import SAMPLERS, Answer, drive
from stages.guidance import GUIDE
from stages.handover import UPSAMPLED, Handover, given_noisy, sample_until
from stages.kinds.base import BaseStage
from stages.sampling import noise_of
from tests.calling import call
from tests.worlds import GaussianData

from .chains import (
    finished,
    follows_grammar,
    ideal,
    levels_apart,
    pictures,
    spelled,
    tiny,
    tiny_config,
    write_cascade,
)
from .engines import run

SIDE, END = 16, 0.3
MODES = ("x", "x0_hat")


@pytest.fixture(scope="module")
def images() -> Tensor:
    return pictures(6, 32)


def stopping(handover: str, sigma_end: float = END, **more: object) -> dict[str, dict[str, object]]:
    return {"base_8": {"sigma_end": sigma_end, "handover": handover, **more}}


class GaussianStage(BaseStage):
    """A base stage with the ideal denoiser of Gaussian data."""

    def __init__(self, config: BaseConfig, data: GaussianData):
        torch.nn.Module.__init__(self)
        self.config, self.data = config, data

    def denoise(self, x: Tensor, sigma: Tensor, cond: Cond) -> Answer:
        return Answer(self.data.denoise(x, sigma))


class TestGaussianData:
    """In float64, where path and estimate are known: what is handed on is exact, and its variance is that of the level."""

    @pytest.fixture
    def data(self) -> GaussianData:
        generator = torch.Generator().manual_seed(0)
        shape = (3, 8, 8)
        std = 0.2 + 0.3 * torch.rand(shape, generator=generator, dtype=torch.float64)
        return GaussianData(mean=0.4 * torch.randn(shape, generator=generator, dtype=torch.float64), std=std)

    @pytest.mark.parametrize("handover", MODES)
    def test_it_is_where_the_ode_leads(self, data, handover):
        generator = torch.Generator().manual_seed(1)
        settings = SampleConfig(sampler="heun", num_steps=1000, sigma_end=END, handover=handover)
        x = data.mean + 80 * torch.randn(4, 3, 8, 8, generator=generator, dtype=torch.float64)
        sampler = SAMPLERS["heun"](x, settings.levels, lambda *_: torch.zeros(()), settings.options)
        end = drive(sampler, data.denoise)
        there = data.path(x, 80.0, END)
        expected = there if handover == "x" else data.denoise(there, torch.full((4,), END, dtype=torch.float64))
        assert_close(end, expected, rtol=0, atol=5e-5)  # Heun, second order

    def test_the_next_stage_of_a_cascade_gets_it(self):
        """White data of std s: x at sigma_end is the finished picture times sqrt(s^2 + sigma_end^2) / s, and so is low_res."""
        std = torch.full((3, 8, 8), 0.25, dtype=torch.float64)
        model = ideal(pictures(2, SIDE), (8, SIDE), sampler="heun", num_steps=200)
        base, above = model.links
        stage = GaussianStage(base.stage.config, GaussianData(mean=0 * std, std=std))
        first = Link(name=base.name, hosts=own_host(base.name, stage), sidecar=base.sidecar, settings=base.settings)
        conditions = []
        for settings in (stopping("x"), {}):
            above.stage.asked.clear()
            list(Cascade([first, above]).sample(Request(num=4, settings=settings)))
            conditions.append(above.stage.asked[0])
        told, plain = conditions
        assert_close(told.aug_sigma, torch.full((4,), END * UPSAMPLED))
        assert plain.aug_sigma.abs().max() == 0
        assert_close(told.low_res, plain.low_res * (0.25**2 + END**2) ** 0.5 / 0.25, rtol=0, atol=0.02)  # uint8


class TestFiniteData:
    @pytest.mark.parametrize("handover", MODES)
    @pytest.mark.parametrize("sampler", ["dpmpp_2m", "heun", "adaptive", "ddim"])
    def test_every_picture_is_one_of_the_set_and_calls_are_as_told(self, images, handover, sampler):
        model = ideal(images, sampler=sampler, num_steps=8)
        request = Request(num=6, settings=stopping(handover, 0.1))
        events = list(model.sample(request))
        assert follows_grammar(events, 3)
        told, made = model.resolve(request).links[0].nfe, spelled(events).index("F") - 1
        assert made <= told if SAMPLERS[sampler].adapts else made == told
        stages = [finished(events, name) for name in ("base_8", "sr_16", "sr_32")]
        shown = [torch.cdist(each.flatten(1).double(), small(images, each.shape[-1])).argmin(1) for each in stages]
        assert torch.equal(shown[0], shown[1])
        assert torch.equal(shown[1], shown[2])
        assert levels_apart(stages[2], to_uint8(images)[shown[2]]) <= 1

    def test_x_is_what_sample_until_gives(self, images):
        """And the next stage's condition is that of `given_noisy`, bit for bit."""
        model = ideal(images, num_steps=8)
        base, above = model.links[:2]
        list(model.sample(Request(num=4, settings=stopping("x"))))
        noise = noise_of("base_8", 0, torch.arange(4), "cpu")
        handed = sample_until(base.stage, base.settings, Cond.empty(4), noise, (4, 3, 8, 8), END)
        assert isinstance(handed, Handover)
        cond = given_noisy(above.stage, Cond.empty(4), handed)
        asked = next(each for each in above.stage.asked)
        assert torch.equal(asked.low_res, cond.value("low_res"))
        assert_close(asked.aug_sigma, cond.value("aug"))

    def test_x0_hat_is_handed_on_as_it_is_shown_and_gets_white_noise(self, images):
        model = ideal(images, num_steps=8)
        events = list(model.sample(Request(num=4, settings=stopping("x0_hat"))))
        shown, above = finished(events, "base_8"), model.links[1]
        asked = above.stage.asked[0]
        again = list(
            ideal(images, num_steps=8).sample(
                Request(low_res=shown, first="sr_16", settings={"sr_16": {"aug_sigma": END * UPSAMPLED}})
            )
        )
        assert_close(asked.aug_sigma, torch.full((4,), END * UPSAMPLED))
        assert torch.equal(finished(again), finished(events))

    def test_a_picture_does_not_depend_on_its_batch(self, images):
        model = ideal(images, num_steps=6)
        whole = finished(model.sample(Request(num=5, settings=stopping("x"))))
        parts = finished(model.sample(Request(num=5, batch=2, settings=stopping("x"))))
        assert levels_apart(whole, parts) <= 1

    @pytest.mark.parametrize("handover", MODES)
    def test_wide_pictures_are_handed_on_too(self, handover):
        """Random networks: where nothing is continued over a margin, a wide picture's left half begins like any other."""
        model = tiny(8, 16)
        got = finished(model.sample(Request(size=(16, 32), settings=stopping(handover))))
        assert got.shape[-2:] == (16, 32)
        whole = finished(model.sample(Request(size=(16, 32))))
        assert not torch.equal(got, whole)


def test_an_engine_gives_what_the_cascade_gives():
    """Two requests at once, of which one stops early; previews of both."""
    model = tiny(8, 16)
    requests = (
        Request(num=2, settings=stopping("x")),
        Request(num=2, seed=1, settings=stopping("x0_hat")),
        Request(num=1),
    )
    for events, request in zip(run(Engine(model), *requests), requests, strict=True):
        assert follows_grammar(events, 2)
        assert levels_apart(finished(events), finished(model.sample(request))) <= 1


class TestRefined:
    """Pictures of a stage that stopped early are kept, its x is not: where the next one went on from x they are refused."""

    def test_x0_hat_gives_the_same_pictures(self):
        model = tiny(8, 16, 32)
        settings = stopping("x0_hat") | {"sr_16": {"sigma_end": 0.1, "handover": "x0_hat"}}
        events = list(model.sample(Request(num=3, settings=settings)))
        for stage, after in pairwise(model.names):
            kept = finished(events, stage)[[2, 0]]
            request = Request(num=3, pick=(2, 0), first=after, low_res=kept)
            later = {
                name: values for name, values in settings.items() if name in model.names[model.names.index(after) :]
            }
            plan = model.resolve(replace(request, settings=later), others=settings)
            assert [link.settings.aug_sigma for link in plan.made_by[1:]] == pytest.approx(
                [END * UPSAMPLED, 0.1 * UPSAMPLED]
            )
            assert levels_apart(finished(model.sample(plan)), finished(events)[[2, 0]]) <= 1

    def test_x_is_refused(self):
        model = tiny(8, 16)
        request = Request(pick=(0,), first="sr_16", low_res=torch.zeros(1, 3, 8, 8, dtype=torch.uint8))
        with pytest.raises(
            ValueError, match=r"stage base_8: sigma_end 0\.3: sr_16 went on from its noisy x, which is not kept"
        ):
            model.resolve(request, others=stopping("x"))
        model.resolve(replace(request, pick=()), others=stopping("x"))  # a user's picture


def small(images: Tensor, side: int) -> Tensor:
    """The set at a side, as levels of uint8 in rows."""
    return ((downsample(images.double(), (side, side)) + 1) * 127.5).flatten(1)


class TestRefused:
    @pytest.mark.parametrize(
        ("settings", "told"),
        [
            ({"sr_32": {"sigma_end": 0.3}}, "stage sr_32: sigma_end 0.3: no stage comes after it here"),
            (
                stopping("x", 20.0),
                "once upsampled it is aug_sigma 16.3, above 10, the largest that sr_16 was trained on",
            ),
            (stopping("x", 0.001), r"sigma_end 0.001 must be from 0.005, .* to below 80, the highest"),
            (stopping("x", sampler="langevin"), "langevin has no x of that level to hand on; set handover to x0_hat"),
            (stopping("x") | {"sr_16": {"aug_sigma": 1.0}}, "aug_sigma 1.0: stage base_8 stops at 0.3, which makes it"),
            (stopping("x") | {"sr_16": {"consistency": 1.0}}, "consistency of sr_16 corrects finished pictures"),
            (stopping("noise"), "handover"),
        ],
    )
    def test_in_one_line(self, images, settings, told):
        with pytest.raises(ValueError, match=told) as caught:
            ideal(images, num_steps=8).resolve(Request(settings=settings))
        assert "\n" not in str(caught.value)

    def test_above_what_a_guide_was_trained_on(self):
        base, above = tiny(8, 16).links
        config = above.stage.config
        weak = build_stage(config.model_copy(update={"aug": config.aug.model_copy(update={"max_sigma": 0.1})}))
        hosts = {**above.hosts, GUIDE: Host(name="sr_16.guide", stage=weak)}
        model = Cascade([base, replace(above, hosts=hosts)])
        with pytest.raises(
            ValueError, match=r"stage base_8: .*0\.244, above 0\.1, the largest that the guide of sr_16 was"
        ):
            model.resolve(Request(settings=stopping("x") | {"sr_16": {"autoguidance_scale": 2.0}}))
        assert model.resolve(Request(settings=stopping("x"))).links[1].settings.aug_sigma > 0.1

    def test_where_the_request_ends(self, images):
        model = ideal(images, num_steps=8)
        with pytest.raises(ValueError, match="no stage comes after it here"):
            model.resolve(Request(last="base_8", settings=stopping("x0_hat")))

    def test_as_the_last_of_a_yaml(self):
        config = tiny_config()
        values = config.model_dump()
        values["stages"]["sr_16"]["sample"] |= {"sigma_end": 0.1}
        with pytest.raises(ValueError, match="stage sr_16 is the last one and has sample"):
            CascadeConfig.model_validate(values)

    def test_what_a_request_says_again_is_not_refused(self, images):
        """The settings of metadata, in which the derived aug_sigma stands."""
        model = ideal(images, num_steps=8)
        plan = model.resolve(Request(settings=stopping("x")))
        again = {link.name: link.settings.model_dump() for link in plan.links}
        assert model.resolve(Request(settings=again)).links[1].settings == plan.links[1].settings


def test_the_manifest_decides_and_the_command_line_changes_it(tmp_path, capsys):
    folder = write_cascade(tmp_path / "tiny", tiny_config(8, 16))
    before = json.loads((folder / MANIFEST).read_text())
    assert "sigma_end" not in before["stages"]["base_8"]["sample"]
    before["stages"]["base_8"]["sample"] |= {"sigma_end": 0.5, "handover": "x"}
    (folder / MANIFEST).write_text(json.dumps(before))
    model = Cascade.load(folder)
    plan = model.resolve(Request())
    assert plan.links[1].settings.aug_sigma == pytest.approx(0.5 * UPSAMPLED)
    common = ("--cascade", folder)
    assert call(main, *common, "--out", tmp_path / "one.png") == 0
    assert call(main, *common, "--out", tmp_path / "two.png", "--set", "base_8.sigma_end=0") == 0
    assert call(main, *common, "--out", tmp_path / "three.png", "--set", "base_8.handover=x0_hat") == 0
    assert call(main, *common, "--out", tmp_path / "again.png", "--set", "sigma_end=0.5") == 0  # not of the last stage
    one, two, three, again = (read_png(tmp_path / f"{name}.png") for name in ("one", "two", "three", "again"))
    assert torch.equal(one, again)
    assert not torch.equal(one, two)
    assert not torch.equal(one, three)
    capsys.readouterr()
    assert call(main, *common, "--out", tmp_path / "four.png", "--set", "sr_16.sigma_end=0.5") == 2
    assert "no stage comes after it here" in capsys.readouterr().err
