"""`python -m cascade.judge CASCADE --data SHARDS`: each stage on true and on painted low_res."""

import json
from pathlib import Path

import pytest
import torch

from cascade.judge.__main__ import judge_main
from cascade.judge.mismatch import PAINTED, TRUE, mismatch
from cascade.pipeline import Cascade
from data.pack.packer import pack
from data.pack.settings import PackSettings
from tests.calling import call

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "cascade" / "shipped" / "emoji_tiny"


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("judged") / "shards"
    settings = PackSettings(size=64, text_encoder="minilm", limit=24, val=0.5, shards=1)
    pack(ROOT / "data" / "emoji64", folder, settings, workers=0)
    return folder


def test_a_report_of_the_shipped_cascade(shards, tmp_path, capsys):
    command = (
        SHIPPED,
        "--data",
        shards,
        "--num",
        6,
        "--levels",
        "0,0.3",
        "--device",
        "cpu",
        "--json",
        tmp_path / "out.json",
    )
    assert call(judge_main, *command) == 0
    rows = json.loads((tmp_path / "out.json").read_text())
    assert [(row["low_res"], row["aug_sigma"], row["num"]) for row in rows] == [
        (TRUE, 0.0, 6), (PAINTED, 0.0, 6), (TRUE, 0.3, 6), (PAINTED, 0.3, 6),
    ]  # fmt: skip
    clean, _, noised, _ = rows
    assert clean["psnr"] > noised["psnr"] > 15  # on true low_res every noise is a loss
    assert clean["consistency"] > noised["consistency"]
    assert rows[1]["psnr"] is None
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split()[:3] == ["stage", "low_res", "aug_sigma"]
    assert len(printed) == 5


def test_the_same_seed_gives_the_same_rows(shards):
    model = Cascade.load(SHIPPED, device="cpu")
    first, again = (list(mismatch(model, str(shards), num=4, levels=[0.1], seed=3)) for _ in range(2))
    assert first == again


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "--data SHARDS is needed"),
        (("--num", "-3"), "--num -3: give a number of pictures"),
        (("--json", "/nowhere/out.json"), "there is no folder /nowhere"),
        (("--levels", "0,much"), "--levels 0,much: numbers with commas between them"),
        (("--levels", "-1"), "levels are standard deviations of noise"),
        (("--levels", "99"), "stage sr_64: it was trained up to aug_sigma"),
    ],
)
def test_mistakes_are_one_line(shards, capsys, options, message):
    data = () if not options else ("--data", shards)
    assert call(judge_main, SHIPPED, *data, *options) == 2
    assert message in capsys.readouterr().err
