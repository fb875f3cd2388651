"""Prompts through the encoder of training to the stages, each with its own number of tokens; and no encoder without leave."""

import socket
from dataclasses import replace

import numpy as np
import pytest

from cascade.conditions import Conditions, for_stage
from cascade.pipeline import Cascade
from cascade.request import Request
from data.batch import Cond
from data.text import TextEncoder
from stages.config import CondConfig, TextConfig

from .chains import ENCODER, finished, levels_apart, tiny

TEXT = TextConfig(encoder="stand-in", dim=4, tokens=6)


class StandIn:
    """One token a word: its length, its first letter from the middle of the alphabet, 1, 0."""

    id = ENCODER

    def encode(self, texts):
        rows = [[[len(word), ord(word[0]) - 110, 1, 0] for word in text.split()] for text in texts]
        return [np.array(row or [[0, 0, 1, 0]], np.float16) for row in rows]


@pytest.fixture
def loads(monkeypatch):
    """What is loaded as text encoder, in place of a real one."""
    loaded: list[tuple] = []

    def load(name, *, download):
        loaded.append((name, download))
        return StandIn()

    monkeypatch.setattr(TextEncoder, "load", load)
    return loaded


@pytest.fixture(scope="module")
def model():
    return tiny(8, 16, text=TEXT)


def test_a_prompt_becomes_padded_tokens(model, loads):
    cond = Conditions(model.links).of(Request(prompts=("red apple", "", "a b c d e f g h")))
    assert cond.keep.all()
    assert cond.text.shape == (3, 6, 4)
    assert cond.text_mask.sum(1).tolist() == [2, 1, 6]
    assert cond.text[0, :3].tolist() == [[3, 4, 1, 0], [5, -13, 1, 0], [0, 0, 0, 0]]


def test_the_encoder_is_loaded_once_and_only_for_a_prompt(model, loads):
    fresh = Cascade(model.links)
    finished(fresh.sample(Request()))
    assert loads == []
    for _ in range(2):
        fresh.sample(Request(prompts=("red",)))
    assert loads == [("stand-in", False)]


def test_a_prompt_decides_the_picture_and_its_neighbours_do_not(model, loads):
    fresh = Cascade(model.links)
    both = finished(fresh.sample(Request(prompts=("red apple", "green"), num=2)))
    alone = finished(fresh.sample(Request(prompts=("red apple",), num=2)))
    assert levels_apart(both[:2], alone) <= 1
    assert levels_apart(both[:2], finished(fresh.sample(Request(prompts=("green",), num=2)))) > 1


def test_a_stage_gets_as_many_tokens_as_it_was_trained_on(loads):
    short = TEXT.model_copy(update={"tokens": 2})
    base, sr = tiny(8, 16, text=TEXT).links
    config = sr.sidecar.config.model_copy(update={"cond": CondConfig(text=short)})
    chain = Cascade([base, replace(sr, sidecar=sr.sidecar.model_copy(update={"config": config}))])
    seen = []
    for link in chain.links:
        link.stage.net.register_forward_pre_hook(lambda net, given: seen.append(given[2].text.shape))
    finished(chain.sample(Request(prompts=("a b c d",))))
    assert seen == [(1, 6, 4)] * 2 + [(1, 2, 4)] * 2


def test_a_stage_without_text_is_left_alone():
    cond = Cond.empty(1)
    assert for_stage(cond, CondConfig(text=TEXT)) is cond
    assert for_stage(cond, CondConfig()) is cond


def test_another_encoder_than_that_of_training(model, loads, monkeypatch):
    monkeypatch.setattr(StandIn, "id", "stand-in-2")
    with pytest.raises(
        ValueError, match="text encoder stand-in is stand-in-2 here, the cascade was trained with stand-in-1"
    ):
        Cascade(model.links).sample(Request(prompts=("red",)))


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
