"""Texts of configs: a key that a later version brings is left out while it has its default, anywhere in a config."""

import json
from typing import Annotated

import pytest
from pydantic import Field

from cascade.config import load_config
from cascade.manifest import Manifest, StageEntry
from stages.config import SampleConfig, TextConfig
from stages.nets.unet_config import UNetConfig
from stages.strict import Strict
from stages.texts import LATER, as_text, as_values
from tests.cascade.chains import sidecar
from tests.stages.tiny import base_config


class Inner(Strict):
    old: float = 1.0
    new: Annotated[float, LATER] = 2.0


class Outer(Strict):
    inner: Inner = Inner()
    named: dict[str, Inner] = Field(default_factory=dict)
    size: int = 3
    twice: Annotated[int, LATER] = Field(default_factory=lambda values: 2 * values["size"])
    more: Annotated[Inner | None, LATER] = None


def test_only_later_keys_at_their_default_are_left_out():
    assert as_values(Outer()) == {"inner": {"old": 1.0}, "named": {}, "size": 3}
    assert as_values(Outer(size=4, twice=6))["twice"] == 6
    assert "twice" not in as_values(Outer(size=4, twice=8))
    assert as_values(Outer(more=Inner()))["more"] == {"old": 1.0}
    assert as_values(Outer(inner=Inner(new=5), named={"a": Inner(), "b": Inner(old=2, new=0)})) == {
        "inner": {"old": 1.0, "new": 5.0}, "named": {"a": {"old": 1.0}, "b": {"old": 2.0, "new": 0.0}}, "size": 3,
    }  # fmt: skip


def test_a_text_holds_the_same_values_and_is_read_back():
    outer = Outer(named={"Ä": Inner(new=1e9)})
    assert json.loads(as_text(outer)) == as_values(outer)
    assert Outer.model_validate_json(as_text(outer)) == outer


@pytest.mark.parametrize("name", ["emoji_tiny", "imagenet_256", "text_1024"])
def test_today_nothing_is_left_out(name):
    stages = load_config(name).stages
    for config in stages.values():
        assert as_values(config) == config.model_dump(mode="json")
        told = sidecar(config)
        assert as_text(told) == told.model_dump_json(indent=2) + "\n"
    manifest = Manifest(
        name=name, stages={key: StageEntry(bundle=f"{key}/bundle", sample=each.sample) for key, each in stages.items()}
    )
    assert as_text(manifest) == manifest.model_dump_json(indent=2) + "\n"
    for config in (SampleConfig(), UNetConfig(widths=(8,), blocks=(1,)), base_config()):
        assert as_values(config) == config.model_dump(mode="json")
    assert as_values(TextConfig(encoder="minilm", dim=3, tokens=4)) == {
        "encoder": "minilm", "dim": 3, "tokens": 4, "packed_tokens": 32,
    }  # fmt: skip
