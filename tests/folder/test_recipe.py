"""Networks by speed, bundles to start from, and the YAML with its reasons."""

from functools import partial

import numpy as np
import pytest
from PIL import Image

from cascade.config import load_config
from cascade.folder.choices import Asked, choose
from cascade.folder.inits import find_init
from cascade.folder.networks import BASES, ladder, sized
from cascade.folder.recipe import SHIPPED, Packed, flow, recipe
from cascade.folder.survey import survey
from data.index.items import Choices as ReadAs
from data.pack.packer import pack
from data.pack.settings import PackSettings
from stages.kinds.config import StageBase
from tests.folder.pictures import fill

BASE = {"kind": "base", "resolution": 16}
SR_64 = {"kind": "super_res", "resolution": 64, "low_res": 16, "noise": {"sigma_data": 0.82}, "low_res_sigma": 0.2}


def narrower_is_faster(config: StageBase, at_48: float) -> float:
    """Images a second, were the cost the square of the width."""
    return at_48 * (48 / config.net.widths[0]) ** 2


class TestSized:
    @pytest.mark.parametrize(("at_48", "widest"), [(5.0, 32), (30.0, 48), (60.0, 64), (500.0, 96)])
    def test_the_largest_that_sees_each_picture_often(self, at_48, widest):
        rate = partial(narrower_is_faster, at_48=at_48)
        found = sized(BASE, ladder(0, False), minutes=20, share=0.68, pictures=200, rate=rate)
        assert found.net["widths"][0] == widest
        smaller = [net["widths"][0] for net in BASES if net["widths"][0] <= widest]
        seconds = 60 * 20 * 0.95 * 0.9 * 0.68
        assert found.length.images == pytest.approx(seconds * at_48 * (48 / smaller[-1]) ** 2, rel=0.01)

    def test_more_pictures_want_a_smaller_one(self):
        rate = partial(narrower_is_faster, at_48=60.0)
        found = sized(BASE, ladder(0, False), minutes=20, share=0.68, pictures=1_000, rate=rate)
        assert found.net["widths"][0] == 32
        assert f"each of 1,000 pictures {found.length.images / 1000:,.0f} times" in found.reason

    def test_too_few_minutes(self):
        with pytest.raises(ValueError, match=r"--minutes 0\.01 is below the first save"):
            sized(BASE, ladder(0, False), minutes=0.01, share=0.68, pictures=50, rate=lambda _: 60.0)

    def test_captions_are_attended_to(self):
        assert ladder(0, True)[1]["cross_attention"] == ladder(0, True)[1]["self_attention"]
        assert "cross_attention" not in ladder(1, True)[0]


@pytest.fixture(scope="module")
def emoji(tmp_path_factory):
    """Shards of the emoji that ship, without captions."""
    out = tmp_path_factory.mktemp("emoji") / "shards"
    index = pack(
        SHIPPED.parents[2] / "data" / "emoji64", out, PackSettings(size=64, limit=48, source="plain"), workers=0
    )
    return out, index


class TestInits:
    def test_a_stage_that_knows_such_pictures(self, emoji):
        """What was trained on these emoji is better than a linear filter; its network comes with it."""
        init, _ = find_init(SR_64, SHIPPED, *emoji, named=False)
        assert init is not None
        assert init.bundle == SHIPPED / "sr_64" / "bundle"
        assert list(init.net["widths"]) == [16, 32, 64]
        assert "its loss on 64 of the pictures is 0." in init.reason

    def test_a_stage_that_does_not(self, tmp_path):
        """Noise has nothing that could be known; the same weights draw edges into it."""
        folder = tmp_path / "noise"
        folder.mkdir()
        for k in range(16):
            values = np.random.default_rng(k).integers(0, 256, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(values).save(folder / f"{k}.png")
        index = pack(folder, tmp_path / "shards", PackSettings(size=64), workers=0)
        stage = SR_64 | {"noise": {"sigma_data": 0.58}, "low_res_sigma": 0.56}
        init, reason = find_init(stage, SHIPPED, tmp_path / "shards", index, named=True)
        assert init is None
        assert reason.startswith("no: its loss on 64 of the pictures is ")

    def test_a_base_stage_of_another_condition(self, emoji):
        init, reason = find_init(BASE, SHIPPED, *emoji, named=True)
        assert init is None
        assert "cond.text is ('minilm', 384) there, none here" in reason


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"a": [1, 2], "b": True}, "{a: [1, 2], b: true}"),
        ("word", "word"),
        ('a/b "c"', '"a/b \\"c\\""'),
        (0.25, "0.25"),
        ([], "[]"),
    ],
)
def test_values_in_one_line(value, text):
    assert flow(value) == text


def test_the_yaml_says_why(tmp_path):
    """Three stages with classes and transparency: it loads, and what was chosen has its reason on the line."""
    for k, name in enumerate(("cats", "dogs")):
        fill(tmp_path / "a" / name, 60, (256, 256), start=60 * k, alpha=True)
    asked = Asked(minutes=20, init="none")
    chosen = choose(survey(tmp_path / "a", ReadAs()), asked, lambda captions: [3] * len(captions))
    index = {
        side: pack(
            tmp_path / "a",
            tmp_path / str(side),
            PackSettings(size=side, alpha=True, val=chosen.val.value),
            workers=0,
            chosen=lambda _: chosen.source,
        )
        for side in (64, 256)
    }
    sides, said = (64, 64, 256), []
    packed = Packed(places=tuple(tmp_path / str(side) for side in sides), indexes=tuple(index[side] for side in sides))
    text = recipe("mine", chosen, asked, packed, lambda _: 50.0, lambda line: said.append(line))
    (tmp_path / "mine.yaml").write_text(text)
    config = load_config(str(tmp_path / "mine.yaml"))
    assert list(config.stages) == ["base_16", "sr_64", "sr_256"]
    base, top = config.stages["base_16"], config.stages["sr_256"]
    assert (base.channels, base.cond.num_classes, base.sample.guidance_scale) == (4, 2, 2.0)
    assert (base.sample.sigma_min, config.stages["sr_64"].sample.num_steps, top.sample.num_steps) == (0.05, 4, 1)
    assert [line.partition(":")[0] for line in said] == list(config.stages)  # no warning
    assert (top.crop, top.cond.num_classes) == (64, 0)
    assert base.train.images > 4 * top.train.images
    for key in ("channels", "net", "cond", "noise", "images", "batch", "lr", "warmup", "ema", "flip", "init"):
        assert all("  # " in line for line in text.splitlines() if line.strip().startswith(f"{key}:")), key


def test_few_updates_are_told_and_not_painted_finely(tmp_path):
    """A base of 100 updates ends at a level that it has learned, and the command says what more minutes would give."""
    asked, said = Asked(minutes=5, init="none"), []
    chosen = choose(survey(fill(tmp_path / "a", 12), ReadAs()), asked, lambda captions: [])
    index = pack(tmp_path / "a", tmp_path / "shards", PackSettings(size=64), workers=0)
    packed = Packed(places=(tmp_path / "shards",) * 2, indexes=(index,) * 2)
    (tmp_path / "mine.yaml").write_text(recipe("mine", chosen, asked, packed, lambda _: 10.0, said.append))
    config = load_config(str(tmp_path / "mine.yaml"))
    base, sr = config.stages["base_16"], config.stages["sr_64"]
    assert (base.sample.sigma_min, sr.sample.sampler, sr.sample.num_steps) == (0.5, "euler", 1)
    assert base.train.images // 16 == 109
    assert said[1] == (
        "109 updates of the base are few here: expect clouds of colour, not things; 1,000 would take about --minutes 46"
    )
