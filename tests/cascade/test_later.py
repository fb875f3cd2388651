"""A later version knows one sampling setting more: what this one has left on the disk is still recognised, and goes on."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import pytest

import cascade.link
import cascade.output.metadata
from cascade.output.again import plan_of, repainted, said_of
from cascade.output.bulk import generate
from cascade.output.destinations import output_for
from cascade.output.metadata import describe
from cascade.output.pictures import save_png
from cascade.pipeline import Cascade
from cascade.request import Request
from stages.config import SampleConfig
from stages.strict import NonNegative
from stages.texts import LATER

from .chains import tiny, tiny_config

REQUEST = Request(num=4, labels=(1,), seed=3, settings={"base_8": {"num_steps": 3}})


class LaterConfig(SampleConfig):
    swirl: Annotated[NonNegative, LATER] = 0.5


@pytest.fixture(scope="module")
def model() -> Cascade:
    return tiny(8, 16, classes=3)


def later_model(model: Cascade, **settings: float) -> Cascade:
    return Cascade(
        [replace(link, settings=LaterConfig(**link.settings.model_dump() | settings)) for link in model.links]
    )


@pytest.fixture(scope="module")
def old(model, tmp_path_factory) -> Path:
    """What the version before made: single pictures, a grid and a bulk job, half of it."""
    folder = tmp_path_factory.mktemp("old")
    for name in ("singles/", "grid.png"):
        list(output_for(f"{folder}/{name}", stages=False).write(model.sample(REQUEST), model.resolve(REQUEST)))
    list(generate(model, REQUEST, folder / "bulk", shard_size=2))
    (folder / "bulk" / "train-00001.tar").unlink()
    return folder


@pytest.fixture
def kept(old, tmp_path) -> Path:
    return shutil.copytree(old, tmp_path / "kept")


@pytest.fixture(autouse=True)
def later(old, monkeypatch) -> None:
    """From here on the version is the later one."""
    for module in (cascade.link, cascade.output.metadata):
        monkeypatch.setattr(module, "SampleConfig", LaterConfig)


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


class TestPictures:
    @pytest.mark.parametrize("name", ["singles/", "grid.png"])
    def test_they_are_of_the_same_request(self, model, kept, name):
        output = output_for(f"{kept}/{name}", stages=False)
        assert output.claim(later_model(model).resolve(REQUEST)) is None
        assert output.old(later_model(model).resolve(REQUEST)) == []

    @pytest.mark.parametrize("name", ["singles/", "grid.png"])
    @pytest.mark.parametrize("how", ["cascade", "request"])
    def test_another_value_is_another_request(self, model, kept, name, how):
        """Whether the cascade says it, whose settings were changed since, or the request."""
        now = later_model(model, swirl=0.7) if how == "cascade" else later_model(model)
        request = REQUEST if how == "cascade" else replace(REQUEST, settings={"base_8": {"num_steps": 3, "swirl": 0.7}})
        with pytest.raises(ValueError, match="is of a request with other stages; choose another place"):
            output_for(f"{kept}/{name}", stages=False).claim(now.resolve(request))

    def test_the_folder_goes_on_with_the_same_bytes(self, model, kept):
        before = bytes_of(kept / "singles")
        (kept / "singles" / "000002.png").unlink()
        output = output_for(f"{kept}/singles/", stages=False)
        plan = later_model(model).resolve(REQUEST)
        left = output.claim(plan)
        list(output.write(later_model(model).sample(plan.picked(left)), plan))
        assert bytes_of(kept / "singles") == before

    def test_they_are_made_again_as_they_were_by_a_cascade_with_another_value(self, model, kept):
        """What their version did not say does not come from the cascade's settings of today."""
        path, now = kept / "singles" / "000001.png", later_model(model, swirl=0.7)
        said = said_of(path)
        plan = plan_of(path, said, now, None)
        assert plan.request.settings["base_8"]["swirl"] == 0.5
        assert describe(plan, 1)["stages"] == said["stages"]
        save_png(repainted(now, plan, said), kept / "again.png", said)
        assert (kept / "again.png").read_bytes() == path.read_bytes()

    def test_the_value_is_said_where_it_is_not_the_default(self, model):
        request = replace(REQUEST, settings={"sr_16": {"swirl": 0.7}})
        stages = describe(later_model(model).resolve(request))["stages"]
        assert "swirl" not in stages["base_8"]["settings"]
        assert stages["sr_16"]["settings"]["swirl"] == 0.7


class TestBulk:
    def test_a_half_done_job_goes_on(self, model, old, kept):
        before = bytes_of(kept / "bulk")
        made = list(generate(later_model(model), REQUEST, kept / "bulk", shard_size=2))
        assert [path.name for path in made] == ["train-00001.tar"]
        assert bytes_of(kept / "bulk").items() >= before.items()

    def test_another_value_is_refused(self, model, kept):
        with pytest.raises(ValueError, match="shards of a request with other stages are there; choose another folder"):
            list(generate(later_model(model, swirl=0.7), REQUEST, kept / "bulk", shard_size=2))

    def test_a_key_that_is_not_marked_stands_in_new_texts_and_refuses_nothing_either(self, model, kept, monkeypatch):
        class Plain(SampleConfig):
            swirl: float = 0.5

        for module in (cascade.link, cascade.output.metadata):
            monkeypatch.setattr(module, "SampleConfig", Plain)
        now = Cascade([replace(link, settings=Plain(**link.settings.model_dump())) for link in model.links])
        assert len(list(generate(now, REQUEST, kept / "bulk", shard_size=2))) == 1
        assert describe(now.resolve(REQUEST))["stages"]["base_8"]["settings"]["swirl"] == 0.5


@pytest.mark.parametrize("stages", [3, {"base_8": 3}, {"base_8": {}}, {"base_8": {"settings": {"num_steps": "many"}}}])
def test_what_is_none_of_ours_is_compared_as_it_stands(stages):
    assert cascade.output.metadata.as_meant({"stages": stages, "seed": 1}) == {"stages": stages, "seed": 1}


def test_other_ways_to_write_a_value_are_the_same(model, kept):
    """Of a request.json that somebody has formatted anew."""
    path = kept / "bulk" / "request.json"
    said = json.loads(path.read_text())
    said["stages"]["base_8"]["settings"]["sigma_max"] = int(tiny_config().stages["base_8"].sample.sigma_max)
    path.write_text(json.dumps(said, indent=3))
    assert len(list(generate(later_model(model), REQUEST, kept / "bulk", shard_size=2))) == 1
