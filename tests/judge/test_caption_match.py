"""Pictures and captions as vectors: how well they match, in closed form; and `score --encoder` with a real, tiny encoder."""

import csv
import json

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from cascade.judge.__main__ import score_main
from cascade.judge.among import nearest_among
from cascade.judge.caption_match import caption_match, shuffled
from cascade.judge.encoder import ImageTextEncoder
from cascade.judge.side import load_side
from data.pack.packer import pack
from data.pack.settings import PackSettings
from tests.calling import call

from .encoders import write_clip
from .laws import pictures
from .test_score import folder_of


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("encoder") / "clip")


def captioned(folder, images, texts):
    """A folder of pictures with a metadata.jsonl."""
    folder_of(images, folder)
    rows = [{"file_name": f"{k:04d}.png", "text": text} for k, text in enumerate(texts)]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def unit(num, dimensions, seed):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(num, dimensions, generator=generator).double(), dim=1)


def test_chances_are_those_of_drawing_others():
    generator, among = torch.Generator().manual_seed(0), 5
    for nearer, others in ((0, 9), (1, 9), (4, 9), (2, 3), (9, 9)):
        draws = torch.stack([torch.randperm(others, generator=generator)[: among - 1] for _ in range(4000)])
        share = (draws >= nearer).all(dim=1).double().mean().item()
        found = nearest_among(torch.tensor([nearer]), torch.tensor([others]), among).item()
        assert found == pytest.approx(share, abs=0.03)


def test_pictures_that_are_their_captions_match_and_shuffled_ones_do_not():
    texts = unit(600, 32, seed=0)
    names = [f"{k}" for k in range(600)]
    near = F.normalize(texts + 0.1 * unit(600, 32, seed=1), dim=1)
    found, chance = caption_match(near, texts, names), shuffled(near, texts, names)
    assert found.among == 500
    assert found.share_nearest[0] == 1
    assert found.mean_cosine[0] > 0.98
    assert chance.share_nearest[0] < 0.01
    assert abs(chance.mean_cosine[0]) < 4 * chance.mean_cosine[1]


def test_of_pictures_that_know_nothing_one_in_all_captions_is_right():
    names = [f"{k}" for k in range(100)]
    found = caption_match(unit(100, 8, seed=0), unit(100, 8, seed=1), names)
    value, error = found.share_nearest
    assert abs(value - 1 / 100) < 3 * max(error, 0.01)
    assert found.among == 100


def test_a_caption_of_several_pictures_counts_once():
    texts = unit(2, 8, seed=0)[[0, 0, 0, 1]]
    found = caption_match(texts, texts, ["a", "a", "a", "b"])
    assert (found.among, found.share_nearest[0]) == (2, 1)
    with pytest.raises(ValueError, match="all 4 pictures have one caption"):
        caption_match(texts, texts, ["a"] * 4)


def test_cosines_are_those_of_the_model(clip):
    from transformers import AutoProcessor, CLIPModel

    images, texts = pictures(3, 40), ["a red circle", "two stars", "a very long caption that will be cut in the end"]
    encoder = ImageTextEncoder.load(clip)
    own = encoder.pictures(images) @ encoder.texts(texts).T
    model, processor = CLIPModel.from_pretrained(clip).eval(), AutoProcessor.from_pretrained(clip)
    shown = [Image.fromarray(each.permute(1, 2, 0).numpy()) for each in images]
    given = processor(images=shown, text=texts, return_tensors="pt", padding=True, truncation=True)
    with torch.inference_mode():
        told = model(**given).logits_per_image / model.logit_scale.exp()
    torch.testing.assert_close(own, told.double(), rtol=1e-4, atol=1e-5)
    assert own.std() > 0.01


def test_a_score_with_captions_of_folders_and_data_sets(clip, tmp_path):
    images, texts = pictures(12, 32), [f"picture {k % 6}" for k in range(12)]
    real = captioned(tmp_path / "a", images, texts)
    pack(real, tmp_path / "shards", PackSettings(size=32, val=0.0), workers=0)
    options = ("--device", "cpu", "--json", tmp_path / "out.json", "--csv", tmp_path / "out.csv", "--split", "train")
    assert call(score_main, real, tmp_path / "shards", "--encoder", clip, *options) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["weights"]["encoder"] == ImageTextEncoder.load(clip).sha256
    for name in ("caption cosine", "caption nearest of 6"):
        real_score, generated = (found["scores"][f"{name}, {side}"] for side in ("real", "generated"))
        assert real_score == pytest.approx(generated, rel=1e-6)
        assert found["scores"][f"{name}, generated, shuffled"] != generated
    rows = list(csv.DictReader((tmp_path / "out.csv").read_text().splitlines()))
    assert [row["caption"] for row in rows] == [texts[int(row["neighbour"].removesuffix(".png"))] for row in rows]
    assert [float(row["distance"]) for row in rows] == pytest.approx([0.0] * 12, abs=1e-6)
    mean = sum(float(row["caption_cosine"]) for row in rows) / 12
    assert found["scores"]["caption cosine, generated"][0] == pytest.approx(mean, rel=1e-4)


def test_texts_beside_pictures_are_captions(tmp_path):
    folder = folder_of(pictures(3, 32), tmp_path / "a")
    (folder / "0001.txt").write_text("a blob\n")
    assert load_side(str(folder), captions=True).captions == ("", "a blob", "")
    assert load_side(str(folder)).captions == ()


def test_pictures_without_captions_are_told_by_name(clip, tmp_path, capsys):
    folder = folder_of(pictures(4, 32), tmp_path / "a")
    assert call(score_main, folder, folder, "--encoder", clip, "--device", "cpu") == 0
    printed = capsys.readouterr().out
    assert "0 different captions of 4 pictures; two are needed" in printed
    assert [line for line in printed.splitlines() if line.startswith("caption match, real ")]


def test_a_folder_that_is_no_encoder_leaves_the_match_out(clip, tmp_path, capsys):
    folder = folder_of(pictures(4, 32), tmp_path / "a")
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    for path in clip.iterdir():
        if path.suffix != ".safetensors":
            (pickled / path.name).write_bytes(path.read_bytes())
    torch.save({}, pickled / "pytorch_model.bin")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "config.json").write_text('{"model_type": "nothing"}')
    for encoder, message in (
        (tmp_path / "none", "is no folder of an image-text encoder"),
        (pickled, "no model with safetensors, processor and tokenizer"),
        (tmp_path / "text", "no model with safetensors, processor and tokenizer"),
    ):
        assert call(score_main, folder, folder, "--encoder", encoder, "--device", "cpu") == 0
        lines = [line for line in capsys.readouterr().out.splitlines() if message in line]
        assert len(lines) == 1
        assert lines[0].startswith("caption match ")


def test_an_encoder_of_texts_alone_is_refused(tmp_path):
    from transformers import BertConfig, BertModel

    config = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=8)
    BertModel(config).save_pretrained(tmp_path / "bert")
    (tmp_path / "bert" / "vocab.txt").write_text("[UNK]\n[CLS]\n[SEP]\n[PAD]\n[MASK]\na\n")
    with pytest.raises(ValueError, match="a bert does not encode both pictures and texts"):
        ImageTextEncoder.load(tmp_path / "bert")
