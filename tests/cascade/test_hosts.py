"""Hosts beside a stage's own network: the guide of autoguidance, and a decoder that a condition asks on its way, of which
only this file knows."""

import json
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from cascade import guide, pipeline
from cascade.engine.engine import Engine, QueueFullError
from cascade.engine.host import Host, host_name
from cascade.engine.stats import HostStats
from cascade.events import Finished, Preview
from cascade.manifest import MANIFEST, read_manifest, write_manifest
from cascade.output.again import plan_of
from cascade.output.metadata import describe
from cascade.pipeline import Cascade
from cascade.request import Request
from cascade.serve import on_ray
from cascade.serve.api.previews import time_left
from data.batch import Cond
from stages.ask import OWN, Ask
from stages.build import build_stage
from stages.bundle import read_sidecar
from stages.config import CondConfig
from stages.diffusion.samplers import Query
from stages.guiding.autoguidance import GUIDE
from stages.kinds.super_res import SuperResStage
from stages.sampling import noise_of

from .chains import finished, levels_apart, random_weights, tiny, tiny_config, write_bundle, write_cascade
from .engines import run
from .test_alone import same

SCALE = 2.5
REQUEST = Request(num=3, seed=4, settings={"base_8": {"num_steps": 3, "autoguidance_scale": SCALE}})


def beside(link, name, stage):
    """The link with one host more."""
    return replace(link, hosts={**link.hosts, name: Host(name=host_name(link.name, name), stage=stage)})


@pytest.fixture(scope="module")
def guided():
    base, *others = tiny(8, 16).links
    weak = build_stage(base.stage.config)
    weak.load_state_dict(random_weights(base.stage.config, seed=9))
    return Cascade([beside(base, GUIDE, weak.eval()), *others])


def test_first_answer_is_that_of_the_rule(guided):
    link = guided.links[0]
    first = next(event for event in guided.sample(REQUEST) if isinstance(event, Preview))
    x = 5.0 * noise_of("base_8", 4, torch.arange(3), "cpu")("start", torch.Size((3, 3, 8, 8)))
    own, guide = (
        link.hosts[name].stage.denoise(x, torch.full((3,), 5.0), Cond.empty(3)).x0_hat for name in (OWN, GUIDE)
    )
    torch.testing.assert_close(first.x0_hat, guide + SCALE * (own - guide), rtol=1e-4, atol=1e-4)


def test_alone_and_in_the_engine_bits_are_equal_and_in_company_pictures_are(guided):
    alone = list(guided.sample(REQUEST))
    engine = Engine(guided, max_running=1, batch={host.name: 2 * REQUEST.batch for host in guided.hosts})
    together = run(engine, REQUEST)[0]
    assert len(alone) == len(together)
    assert all(same(*pair) for pair in zip(alone, together, strict=True))
    others = [replace(REQUEST, seed=7), Request(num=2, seed=5), replace(REQUEST, settings={})]
    company = run(Engine(guided), REQUEST, *others)
    assert levels_apart(finished(company[0]), finished(alone)) <= 1
    plain = finished(guided.sample(replace(REQUEST, settings={"base_8": {"num_steps": 3}})))
    assert levels_apart(finished(alone), plain) > 1


def test_a_guide_in_another_process_is_named_counted_and_asked_like_a_stage(tmp_path):
    """As `cascade.serve.on_ray --stage base_8.guide=2` has it: by its name there, with the pictures of one process."""
    folder = write_cascade(tmp_path, tiny_config(8, 16))
    guide.main(folder, "base_8", bundle=write_bundle(tmp_path / "weak", tiny_config(8).stages["base_8"], seed=9))
    names = list(read_manifest(folder).bundles)
    assert names == ["base_8", "base_8.guide", "sr_16"]
    assert on_ray.parse_stages(["base_8.guide=2"], names) == {"base_8.guide": 2}
    with pytest.raises(ValueError, match=r"no stage 'sr_16\.guide', the cascade has base_8, base_8\.guide, sr_16"):
        on_ray.parse_stages(["sr_16.guide=2"], names)
    there = Cascade.load_host(folder, "base_8.guide", device="cpu")
    assert there.sha256 == read_sidecar(tmp_path / "weak").sha256
    here = Cascade.load(folder, elsewhere=["base_8.guide"])
    asked = []

    def remote(asks, batch):
        asked.extend(asks)
        return there.answer([ask.to("cpu") for ask in asks], batch=batch)

    engine = Engine(here, elsewhere={"base_8.guide": [remote]})
    told = []
    engine.submit(REQUEST, told.append)
    while any([engine.tick(worker) for worker in range(len(engine.workers))]):
        pass
    assert len(asked) == 3
    assert levels_apart(finished(told), finished(Cascade.load(folder).sample(REQUEST))) <= 1


@pytest.mark.parametrize("name", ["base_8", "base_8.guide"])
def test_a_network_of_its_own_loads_no_other_weights(name, tmp_path, monkeypatch):
    folder = write_cascade(tmp_path, tiny_config(8, 16))
    guide.main(folder, "base_8", bundle=write_bundle(tmp_path / "weak", tiny_config(8).stages["base_8"], seed=9))
    devices = []
    loaded = pipeline.load_bundle

    def load(bundle, device, precision):
        devices.append((bundle.relative_to(folder).as_posix(), device))
        return loaded(bundle, device, precision)

    monkeypatch.setattr(pipeline, "load_bundle", load)
    host = Cascade.load_host(folder, name, device="cpu")
    assert (host.name, next(host.stage.parameters()).device.type) == (name, "cpu")
    own = read_manifest(folder).bundles[name]
    assert dict(devices) == {"base_8/bundle": "meta", "base_8/guide": "meta"} | {own: "cpu"}


def test_each_host_has_its_own_statistics(guided):
    engine = Engine(guided)
    run(engine, REQUEST)
    assert list(engine.stats) == ["base_8", "base_8.guide", "sr_16"]
    assert [(stats.calls, stats.rows, stats.images) for stats in engine.stats.values()] == [
        (3, 9, 3),
        (3, 9, 3),
        (2, 6, 3),
    ]


def test_a_host_that_is_not_always_asked_counts_an_image_once(guided):
    engine = Engine(guided)
    settings = {"num_steps": 4, "autoguidance_scale": SCALE, "autoguidance_interval": (0.05, 3.0)}
    run(engine, replace(REQUEST, settings={"base_8": settings}))
    assert 0 < engine.stats["base_8.guide"].calls < engine.stats["base_8"].calls == 4
    assert [stats.images for stats in engine.stats.values()] == [3, 3, 3]


def test_the_time_left_is_that_of_all_hosts(guided):
    """The base stage is done, whose calls cost 1 s and its guide's 3 s; of the stage above, whose calls cost 2 s, nothing is."""
    plan = guided.resolve(REQUEST)
    stats = {
        name: HostStats(batch=1, calls=2, busy_s=2 * seconds)
        for name, seconds in (("base_8", 1), ("base_8.guide", 3), ("sr_16", 2))
    }
    job = SimpleNamespace(
        started=time.monotonic() - 100, calls={"base_8": plan.links[0].nfe * len(plan.index), "sr_16": 0}
    )
    left = 100 * 2 * plan.links[1].nfe / (4 * plan.links[0].nfe)
    assert time_left(job, plan, stats) == pytest.approx(left, rel=0.01)
    assert time_left(job, plan, stats | {"base_8.guide": HostStats(batch=1)}) is None


def test_when_there_will_be_room_goes_by_what_an_image_takes_of_all_hosts(guided):
    engine = Engine(guided, max_waiting=4)
    run(engine, REQUEST)
    for stats in engine.stats.values():
        stats.busy_s = 1.5  # of three images
    with pytest.raises(QueueFullError) as refused:
        engine.submit(Request(num=8), lambda event: None)
    assert refused.value.retry_after == pytest.approx(8 * 3 * 0.5)


def test_a_chunk_suits_the_calls_of_every_host(guided):
    engine = Engine(guided, batch={"base_8": 16, "base_8.guide": 2, "sr_16": 16})
    assert engine.fitted(guided.resolve(REQUEST)).request.batch == 2
    assert engine.fitted(guided.resolve(replace(REQUEST, settings={}))).request.batch == 16


def guide_in(folder, config=None, seed=0):
    """Give the base stage a guide by its entry in the manifest."""
    write_bundle(folder / "weak" / "bundle", config or tiny_config(8).stages["base_8"], seed=seed)
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["stages"]["base_8"]["guide"] = "weak/bundle"
    (folder / MANIFEST).write_text(json.dumps(manifest))


def test_a_folder_needs_the_entry_of_its_manifest(tmp_path):
    write_cascade(tmp_path, tiny_config(8, 16))
    assert json.loads((tmp_path / MANIFEST).read_text())["stages"]["base_8"].keys() == {"bundle", "sample"}
    guide_in(tmp_path)
    model = Cascade.load(tmp_path, place={"base_8.guide": "cpu:0"})
    assert [(host.name, str(host.device)) for host in model.hosts] == [
        ("base_8", "cpu"),
        ("base_8.guide", "cpu:0"),
        ("sr_16", "cpu"),
    ]
    engine, events = Engine(model), []
    engine.submit(REQUEST, events.append)
    for _ in range(100):  # a device a thread
        if isinstance(events[-1] if events else None, Finished):
            break
        engine.tick(0), engine.tick(1)
    assert levels_apart(finished(events), finished(model.sample(REQUEST))) <= 1
    said = describe(model.resolve(REQUEST), 1, (0, 1))
    assert plan_of(tmp_path, said, model, None).links == model.resolve(REQUEST).links
    (tmp_path / "weak" / "bundle").rename(tmp_path / "other")
    guide_in(tmp_path, seed=9)
    with pytest.raises(ValueError, match="made by stage base_8 beside other networks than are here"):
        plan_of(tmp_path, said, Cascade.load(tmp_path), None)
    with pytest.raises(ValueError, match=r"no stage 'sr_16.guide' to place, it has base_8, base_8.guide, sr_16"):
        Cascade.load(tmp_path, place={"sr_16.guide": "cpu"})


def test_training_that_goes_on_keeps_the_guide(tmp_path):
    config = tiny_config(8, 16)
    write_cascade(tmp_path, config)
    guide_in(tmp_path)
    write_manifest(config, tmp_path)
    assert read_manifest(tmp_path).stages["base_8"].guide == "weak/bundle"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resolution": 16}, "its guide weak/bundle has resolution 16, the stage 8; choose another guide"),
        ({"channels": 4}, "its guide weak/bundle has channels 4, the stage 3; choose another guide"),
        (
            {"cond": CondConfig(num_classes=3)},
            "its guide weak/bundle has num_classes 3, the stage 0; choose another guide",
        ),
    ],
)
def test_a_guide_answers_the_stage_s_own_questions(tmp_path, changes, message):
    config = tiny_config(8, 16)
    write_cascade(tmp_path, config)
    guide_in(tmp_path, config.stages["base_8"].model_copy(update=changes))
    with pytest.raises(ValueError, match=message):
        Cascade.load(tmp_path)


def test_a_guide_may_know_fewer_conditions_and_lead_beside_classifier_free_guidance(tmp_path):
    write_cascade(tmp_path, tiny_config(8, 16, classes=3))
    guide_in(tmp_path, tiny_config(8).stages["base_8"], seed=9)
    model = Cascade.load(tmp_path)
    settings = {"base_8": {"guidance_scale": 2.0, "autoguidance_scale": SCALE}}
    request = Request(num=2, seed=4, labels=(0, 1), settings=settings)
    assert model.resolve(request).links[0].rows == {OWN: 2, GUIDE: 1}
    engine = Engine(model, max_running=1, batch={host.name: 2 * request.batch for host in model.hosts})
    assert all(same(*pair) for pair in zip(model.sample(request), run(engine, request)[0], strict=True))
    pictures = finished(model.sample(request))
    for key in settings["base_8"]:
        other = {"base_8": settings["base_8"] | {key: 1.0}}
        assert levels_apart(pictures, finished(model.sample(replace(request, settings=other)))) > 1


def refused(model, **settings):
    with pytest.raises(ValueError, match="stage base_8: ") as error:
        model.resolve(Request(settings={"base_8": settings}))
    return str(error.value)


def test_what_a_stage_does_not_have_is_refused_in_a_line(guided):
    plain = tiny(8, 16)
    assert "autoguidance_scale 2.0: this stage has no guide beside it" in refused(plain, autoguidance_scale=2)
    assert "anneal_scale 0.1: this stage was trained without text" in refused(guided, anneal_scale=0.1)
    assert "guidance_every 2: this stage was trained without text or classes" in refused(plain, guidance_every=2)
    assert "guidance_rescale 0.5: this stage was trained without" in refused(plain, guidance_rescale=0.5)
    guided.resolve(Request(settings={"base_8": {"guidance_every": 2, "autoguidance_scale": 2}}))
    tiny(8, 16, classes=2).resolve(Request(settings={"base_8": {"guidance_every": 2, "guidance_rescale": 0.5}}))


class Decoded(SuperResStage):
    """Asks a host of another name what the picture below is like, before it is enlarged."""

    def condition(self, cond, below, settings, noise):
        query = Query(below, torch.full((len(below),), 0.5))
        (found,) = yield [("decoder", Ask(query=query, cond=Cond.empty(len(below))))]
        return (yield from super().condition(cond, found.x0_hat, settings, noise))


def test_a_condition_asks_a_host_by_name():
    base, above = tiny(8, 16).links
    stage = Decoded(above.stage.config)
    stage.load_state_dict(above.stage.state_dict())
    own = replace(above.host, stage=stage.eval())
    model = Cascade([base, beside(replace(above, hosts={OWN: own}), "decoder", base.stage)])
    request = Request(num=2, seed=3)
    engine = Engine(model, max_running=1, batch={host.name: 2 * request.batch for host in model.hosts})
    alone, together = list(model.sample(request)), run(engine, request)[0]
    assert len(alone) == len(together)
    assert all(same(*pair) for pair in zip(alone, together, strict=True))
    assert levels_apart(finished(alone), finished(tiny(8, 16).sample(request))) > 1
    assert {name: (stats.calls, stats.images) for name, stats in engine.stats.items()} == {
        "base_8": (2, 2),
        "sr_16": (2, 2),
        "sr_16.decoder": (1, 2),
    }
