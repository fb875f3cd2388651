"""Whatever paints, paints with the sampler of ancestral.py, and its option is told, kept and refused like any setting.

Run by test_ancestral.py in a process that knew the sampler before `stages.config` was imported.
"""

import json
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

import sample
import train
from cascade.config import load_config
from cascade.engine.engine import Engine
from cascade.output.again import plan_of, repainted, said_of
from cascade.output.destinations import output_for
from cascade.output.metadata import describe
from cascade.output.pictures import read_png, save_png
from cascade.pipeline import Cascade
from cascade.request import Request
from cascade.serve.api.models import stage as told_of
from cascade.serve.api.refine import settings_over
from cascade.serve.http.limits import Limits
from stages.build import build_stage
from stages.config import SampleConfig
from stages.diffusion.noise import power_grid
from stages.diffusion.samplers import SAMPLERS, Answer, drive
from stages.texts import as_text, as_values
from stages.tools.cost import cost_of, network_rows
from stages.training.grid import sample_grid
from stages.training.validate import all_resampled, resampled
from tests.calling import call
from tests.stages.tiny import base_config, shapes_batch, sr_config
from tests.worlds import GaussianData

from .chains import FEW_STEPS, finished, levels_apart, tiny, tiny_config, write_cascade

ANCESTRAL = {"sampler": "ancestral", "share": 0.7}
YAML = """
name: drawn
stages:
  base_8:
    kind: base
    resolution: 8
    net: {widths: [8, 16], blocks: [1, 1], emb_dim: 16}
    sample: {sampler: SAMPLER, num_steps: 3, share: SHARE}
"""


@pytest.fixture(scope="module")
def model() -> Cascade:
    return tiny(8, 16, **FEW_STEPS | {"num_steps": 3}, **ANCESTRAL)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def painted(model: Cascade, **settings: object) -> torch.Tensor:
    return finished(model.sample(Request(num=2, seed=1, settings=dict.fromkeys(model.names, settings))))


class TestTheSampler:
    @pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
    def test_the_spread_of_the_data_whatever_the_share(self, share, generator):
        std = torch.tensor([0.1, 0.5, 0.9, 2.0], dtype=torch.float64).reshape(1, 2, 2)
        world, shape = GaussianData(mean=torch.zeros(1, 2, 2), std=std), (4000, 1, 2, 2)

        def noise(purpose, shape):
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        sigmas = power_grid(100, sigma_min=0.01, sigma_max=20)
        found = drive(SAMPLERS["ancestral"](20 * noise("start", shape), sigmas, noise, {"share": share}), world.denoise)
        assert_close(found.std(0) / std, torch.ones_like(std), rtol=0, atol=0.08)

    def test_a_step_of_ddim_in_its_own_coordinates(self, generator):
        """From alpha_bar to alpha_bar' by the paper's equations 12 and 16."""
        sigmas, share = torch.tensor([3.0, 1.0, 0.0]).double(), 0.6
        x, x0_hat, fresh = torch.randn(3, 2, 1, 4, 4, generator=generator).double()
        sampler = SAMPLERS["ancestral"](x, sigmas, lambda purpose, shape: fresh, {"share": share})
        next(sampler)
        found = sampler.send(Answer(x0_hat)).x
        a, after = (1 / (1 + sigmas[:2].square())).tolist()
        share = share * ((1 - after) / (1 - a) * (1 - a / after)) ** 0.5
        vp = after**0.5 * x0_hat + (1 - after - share**2) ** 0.5 * (x - x0_hat) / 3 + share * fresh
        assert_close(found, vp / after**0.5)


class TestTraining:
    @pytest.mark.parametrize("config", [base_config, sr_config])
    def test_the_grid_the_validation_and_the_costs(self, config):
        config = config().model_copy(update={"sample": SampleConfig(num_steps=3, **ANCESTRAL)})
        stage, batch = build_stage(config).eval(), shapes_batch(2, config.resolution)
        assert torch.equal(sample_grid(stage, batch), sample_grid(stage, batch))
        again = resampled(stage, batch)
        assert torch.isfinite(again).all()
        (whole,) = all_resampled(stage, [batch], stage.space)
        assert torch.equal(whole, again)
        assert_close(resampled(stage, batch[1:]), again[1:], rtol=1e-4, atol=1e-4)
        assert cost_of(config).nfe == 3

    def test_guided_calls_are_counted(self):
        settings = SampleConfig(num_steps=3, guidance_scale=2.0, **ANCESTRAL)
        assert network_rows(settings) == [2, 2, 2]

    def test_a_dry_run(self, tmp_path, capsys):
        (tmp_path / "mine.yaml").write_text(YAML.replace("SAMPLER", "ancestral").replace("SHARE", "0.5"))
        assert call(train.main, tmp_path / "mine.yaml", "base_8", "--dry-run", "--device", "cpu") == 0
        assert "ancestral, 3 calls" in capsys.readouterr().out


class TestPictures:
    def test_the_same_alone_in_batches_and_in_company(self, model):
        request, events = Request(num=4, seed=3, batch=4), []
        whole = finished(model.sample(request))
        assert levels_apart(whole, finished(model.sample(replace(request, batch=1)))) <= 1
        assert levels_apart(whole[2:3], finished(model.sample(replace(request, pick=(2,))))) <= 1
        engine = Engine(model)
        engine.submit(request, events.append)
        engine.submit(Request(num=3, seed=8, settings={"base_8": {"sampler": "heun"}}), lambda event: None)
        while engine.tick():
            pass
        assert levels_apart(whole, finished(events)) <= 1

    def test_the_option_moves_them(self, model):
        assert torch.equal(painted(model, share=0.0), painted(model, sampler="euler"))
        assert levels_apart(painted(model, share=0.0), painted(model)) > 1
        assert levels_apart(painted(model, share=1.0), painted(model)) > 1

    def test_they_are_made_again_by_a_cascade_that_is_set_otherwise(self, model, tmp_path):
        request, now = Request(num=2, seed=4), tiny(8, 16, **FEW_STEPS)
        list(output_for(f"{tmp_path}/", stages=False).write(model.sample(request), model.resolve(request)))
        path = tmp_path / "000001.png"
        said = said_of(path)
        assert said["stages"]["sr_16"]["settings"]["share"] == 0.7
        save_png(repainted(now, plan_of(path, said, now, None), said), tmp_path / "again.png", said)
        assert (tmp_path / "again.png").read_bytes() == path.read_bytes()

    def test_an_older_picture_is_made_again_by_a_cascade_that_draws(self, model, tmp_path):
        old, request = tiny(8, 16, **FEW_STEPS), Request(num=1, seed=4)
        list(output_for(f"{tmp_path}/", stages=False).write(old.sample(request), old.resolve(request)))
        path = tmp_path / "000000.png"
        save_png(repainted(model, plan_of(path, said_of(path), model, None), said_of(path)), tmp_path / "again.png", {})
        assert torch.equal(read_png(tmp_path / "again.png"), read_png(path))

    def test_by_sample_py(self, tmp_path, capsys):
        write_cascade(tmp_path / "cascade", tiny_config(**FEW_STEPS))
        arguments = ("--cascade", tmp_path / "cascade", "--num", 1, "--device", "cpu", "--out", f"{tmp_path}/out/")
        assert call(sample.main, *arguments, "--sampler", "ancestral") == 0
        said = said_of(tmp_path / "out" / "000000.png")
        assert [stage["settings"]["sampler"] for stage in said["stages"].values()] == ["ancestral"] * 2
        assert call(sample.main, *arguments, "--sampler", "ancestrel") == 2
        assert "'adaptive' or 'ancestral' (got 'ancestrel')" in capsys.readouterr().err

    def test_the_help_lists_it(self, capsys):
        assert call(sample.main, "--help") == 0
        assert f"{', '.join(SAMPLERS)}: heun, or base_16=heun" in " ".join(capsys.readouterr().out.split())


class TestSettings:
    @pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_2m"])
    @pytest.mark.parametrize("share", [0.5, 1.0])
    def test_another_sampler_does_not_take_the_option(self, sampler, share, tmp_path):
        line = f"share is an option of ancestral, not of {sampler}; leave it out, or set sampler to ancestral"
        with pytest.raises(ValueError, match=r"^[^\n]*$") as error:
            tiny(8, **FEW_STEPS).sample(Request(settings={"base_8": {"sampler": sampler, "share": share}}))
        assert str(error.value) == f"settings of stage base_8: {line}"
        path = tmp_path / "mine.yaml"
        path.write_text(YAML.replace("SAMPLER", sampler).replace("SHARE", str(share)))
        with pytest.raises(ValueError, match=r"^[^\n]*$") as error:
            load_config(str(path))
        assert str(error.value) == f"cascade {path}: stages.base_8.sample: {line}"

    @pytest.mark.parametrize(
        ("share", "why"),
        [(2, "less than or equal to 1"), (-1, "greater than"), (float("nan"), "finite"), ("x", "number")],
    )
    def test_its_bounds(self, model, share, why):
        with pytest.raises(ValueError, match=rf"^settings of stage sr_16: share: Input should be [^\n]*{why}"):
            model.sample(Request(settings={"sr_16": {"share": share}}))

    def test_who_says_another_sampler_need_not_say_that_the_option_goes(self, model):
        link = model.resolve(Request(settings={"sr_16": {"sampler": "heun"}})).links[1]
        assert (link.settings.sampler, link.settings.options) == ("heun", SAMPLERS["heun"].defaults)
        before = {"base_8": ANCESTRAL | {"rho": 5}, "sr_16": ANCESTRAL}
        assert settings_over(before, {"base_8": {"sampler": "heun"}, "sr_16": {"num_steps": 2}}) == {
            "base_8": {"sampler": "heun", "rho": 5},
            "sr_16": ANCESTRAL | {"num_steps": 2},
        }

    def test_texts_say_it_where_it_is_read_and_not_at_its_default(self):
        told = {key: as_values(SampleConfig(**settings)) for key, settings in TOLD.items()}
        assert {key: values.get("share") for key, values in told.items()} == {"heun": None, "usual": None, "0.7": 0.7}
        for values in told.values():
            assert json.loads(as_text(SampleConfig(**values))) == values
        config = base_config().model_copy(update={"sample": SampleConfig(**ANCESTRAL)})
        assert as_values(config)["sample"]["share"] == 0.7
        assert json.loads(as_text(config)) == as_values(config)
        assert "share" not in SampleConfig(sampler="heun").model_dump()
        assert "share" not in as_values(base_config())["sample"]

    def test_metadata_compare_as_before(self, model):
        stages = describe(tiny(8, 16, **FEW_STEPS).resolve(Request()))["stages"]
        assert all("share" not in stage["settings"] for stage in stages.values())

    def test_a_server_lists_what_is_read(self, model):
        drawn, plain = (told_of(each.links[0], Limits()) for each in (model, tiny(8, **FEW_STEPS)))
        assert (drawn["settings"]["share"], drawn["ranges"]["share"]) == (0.7, [0.0, 1.0])
        assert "share" not in plain["settings"]
        assert "share" not in plain["ranges"]
        assert plain["ranges"]["sampler"] == list(SAMPLERS)
        assert list(SAMPLERS)[-1] == "ancestral"

    def test_the_schema_says_what_it_does(self):
        said = SampleConfig.model_json_schema()["properties"]["share"]
        assert (said["default"], said["minimum"], said["maximum"]) == (1.0, 0.0, 1.0)
        assert said["description"] == "share of fresh noise at each step; 0 is euler"


TOLD = {"heun": {"sampler": "heun"}, "usual": {"sampler": "ancestral"}, "0.7": ANCESTRAL}
