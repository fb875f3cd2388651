"""Texts of configs: a key that a later version brings is left out while it has its default, anywhere in a config."""

import json
from typing import Annotated, Literal

import pytest
from pydantic import Field, ValidationError

from cascade.config import load_config
from cascade.manifest import Manifest, StageEntry
from stages.config import SampleConfig, TextConfig
from stages.nets.unet_config import UNetConfig
from stages.strict import Strict, one_of
from stages.texts import LATER, as_text, as_values
from tests.cascade.chains import sidecar
from tests.stages.tiny import base_config

LATER_OF_NET = {"decoder_blocks", "head_dims", "windows", "shifted", "skip", "skip_share", "resample_filter"}
LATER_OF_SAMPLE = {
    "churn", "churn_min", "churn_max", "churn_noise", "lam", "eta", "variance", "corrector_steps", "corrector_size", "tolerance",
    "grid", "shift", "spacing", "terminal_snr", "guidance_text", "guidance_label", "autoguidance_scale", "autoguidance_interval",
    "guidance_every", "guidance_rescale", "dynamic_threshold", "anneal_scale", "anneal_levels", "strength", "resample",
    "consistency", "consistency_sigma", "colour", "control_scale", "sigma_end", "handover", "original_size",
}  # fmt: skip
LATER_KEYS = {
    "space": True,
    "degrade": True,
    "learned_variance": True,
    "parametrisation": True,
    "net": LATER_OF_NET,
    "cond": {"drop_each": True, "maps": True, "original_size": True, "position": True, "text": {"noise"}},
    "train": {"init", "objective", "augment", "score_every", "score_images"},
    "sample": LATER_OF_SAMPLE,
    "controlnet": True,
}  # of a stage: what the first version did not know


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
def test_the_first_versions_texts_are_written_where_all_later_keys_are_at_their_default(name):
    stages = load_config(name).stages
    for config in stages.values():
        assert as_values(config) == config.model_dump(mode="json", exclude=LATER_KEYS)
        told = sidecar(config)
        assert (
            as_text(told)
            == told.model_dump_json(
                indent=2, exclude={"config": LATER_KEYS, "contract": {"space"}, "provenance": {"ancestors"}}
            )
            + "\n"
        )
    manifest = Manifest(
        name=name, stages={key: StageEntry(bundle=f"{key}/bundle", sample=each.sample) for key, each in stages.items()}
    )
    later = {"stages": {"__all__": {"evidence": True, "guide": True, "sample": LATER_OF_SAMPLE}}}
    assert as_text(manifest) == manifest.model_dump_json(indent=2, exclude=later) + "\n"
    for config, keys in (
        (SampleConfig(), LATER_OF_SAMPLE),
        (UNetConfig(widths=(8,), blocks=(1,)), LATER_OF_NET),
        (base_config(), LATER_KEYS),
    ):
        assert as_values(config) == config.model_dump(mode="json", exclude=keys)
    assert as_values(TextConfig(encoder="minilm", dim=3, tokens=4)) == {
        "encoder": "minilm", "dim": 3, "tokens": 4, "packed_tokens": 32,
    }  # fmt: skip


class Red(Strict):
    kind: Literal["red"] = "red"
    wave: int = 700


class Blue(Strict):
    kind: Literal["blue"] = "blue"
    wave: int = 470


class Lamp(Strict):
    colour: one_of({"red": Red, "blue": Blue}, default="red") = Red()
    other: one_of({"red": Red, "blue": Blue}) = Blue()


def test_a_text_without_a_kind_means_the_default():
    assert Lamp.model_validate({"colour": {"wave": 680}}).colour == Red(wave=680)
    assert Lamp.model_validate({"colour": {"kind": "blue"}}).colour == Blue()
    assert Lamp(colour=Blue()).colour == Blue()
    with pytest.raises(ValidationError, match="tag 'green'"):
        Lamp.model_validate({"colour": {"kind": "green"}})
    with pytest.raises(ValidationError, match="other"):
        Lamp.model_validate({"other": {"wave": 680}})
    with pytest.raises(ValidationError, match="colour"):
        Lamp.model_validate({"colour": 3})
