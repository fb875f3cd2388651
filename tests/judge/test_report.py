"""`python -m cascade.judge report`: what it measures and writes, and that the page is whole, readable and needs nothing else."""

import csv
import json
import os
import re
import signal
import threading
from dataclasses import replace

import pytest
import torch

from cascade.judge.about import About, groupings, read_about
from cascade.judge.charts import Chart, Line, nice_ticks
from cascade.judge.identity import judge_sha256
from cascade.judge.lpips import BACKBONES
from cascade.judge.matching import matches
from cascade.judge.page import page
from cascade.judge.report import PAINTED, TRUE, Wanted, make_report
from cascade.judge.report_command import report_main
from cascade.pipeline import Cascade
from data.pack.packer import pack
from data.pack.settings import PackSettings
from tests.calling import call
from tests.cascade.chains import tiny, tiny_config, write_cascade
from tests.judge.encoders import write_clip, write_lpips
from tests.judge.test_mismatch import ROOT

from .pages import faint

FEW = ("--num", 8, "--num-curve", 4, "--levels", "0,0.5", "--steps", "1", "--guidance", "1,2", "--device", "cpu")


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reported") / "shards"
    settings = PackSettings(size=16, limit=48, val=0.4, shards=1, label_column="group")
    index = pack(ROOT / "data" / "emoji64", folder, settings, workers=0)
    return folder, tuple(index.classes or ())


@pytest.fixture(scope="module")
def folder(shards, tmp_path_factory):
    _, classes = shards
    return write_cascade(
        tmp_path_factory.mktemp("cascade") / "tiny", tiny_config(8, 16, classes=len(classes)), classes=classes
    )


@pytest.fixture(scope="module")
def written(folder, shards, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    files = ("--out", out / "report.html", "--json", out / "report.json", "--csv", out / "report.csv")
    assert call(report_main, folder, "--data", shards[0], *FEW, *files) == 0
    return out


@pytest.fixture(scope="module")
def report(folder, shards):
    wanted = Wanted(num=8, num_curve=4, levels=(0.0, 0.5), steps=(1,), guidance=(1.0, 2.0))
    return make_report(Cascade.load(folder), str(shards[0]), wanted)


def test_the_json_says_what_the_numbers_depend_on(written, shards):
    found = json.loads((written / "report.json").read_text())
    assert found["num"] == 8
    assert found["wanted"]["seed"] == 0
    assert (found["resize"], found["background"]) == ("bicubic-antialias-1", "white")
    assert found["judge_sha256"] == judge_sha256()
    assert found["fingerprint"] == json.loads((shards[0] / "index.json").read_text())["fingerprint"]
    assert [stage["name"] for stage in found["stages"]] == ["base_8", "sr_16"]
    assert found["stages"][0]["on_true_low_res"] is None
    assert found["stages"][1]["on_true_low_res"]["num"] == 8
    assert {row["aug_sigma"] for row in found["mismatch"]} == {0.0, 0.5}
    assert {(point["setting"], point["value"]) for point in found["curves"] if point["stage"] == "base_8"} == {
        ("num_steps", 1), ("num_steps", 2), ("guidance_scale", 1.0), ("guidance_scale", 2.0),
    }  # fmt: skip
    assert "320, are needed" in json.dumps(found["stages"][0]["scores"])  # KID of 8 pictures is refused, and says why


def test_a_csv_row_for_each_picture_painted_and_true(written):
    rows = list(csv.DictReader((written / "report.csv").read_text().splitlines()))
    assert [row["side"] for row in rows] == [PAINTED] * 8 + [TRUE] * 8
    assert [row["key"] for row in rows[:8]] == [row["key"] for row in rows[8:]]
    assert all(row["caption"] and row["group"] and row["neighbour"] for row in rows)
    assert all(0 <= float(row["match"]) <= 1 for row in rows[:8])
    assert all(row["match"] == "" for row in rows[8:])


def test_networks_at_hand_are_in_it(written, folder, shards, tmp_path):
    (backbone, heads), hashes = write_lpips(tmp_path, BACKBONES[1])
    options = ["--lpips", backbone, "--lpips", heads, "--encoder", write_clip(tmp_path / "clip"), "--inception", heads]
    for each in hashes:
        options += ["--sha256", each]
    few = ("--num", 8, "--num-curve", 4, "--levels", "none", "--steps", "none", "--guidance", "none", "--device", "cpu")
    files = ("--out", tmp_path / "report.html", "--json", tmp_path / "report.json")
    assert call(report_main, folder, "--data", shards[0], *few, *files, *options) == 0
    found = [stage["scores"]["white"] for stage in json.loads((tmp_path / "report.json").read_text())["stages"]]
    assert found[0]["left_out"]["LPIPS"].endswith("RGB of at least 16 px is needed by vgg16")
    assert found[1]["scores"]["LPIPS, 8 pairs"] > 0
    assert found[1]["scores"]["caption cosine, real"] != found[1]["scores"]["caption cosine, generated"]
    assert "lacks Conv2d_1a_3x3.conv.weight" in found[1]["left_out"]["FID"]
    text = (tmp_path / "report.html").read_text()
    for told in ("<td>LPIPS</td>", "<td>caption cosine</td>", "under shuffled captions"):
        assert told in text
        assert told not in (written / "report.html").read_text()
    for option in ("(--inception)", "(--lpips)", "(--encoder)"):
        assert option not in text
        assert option in (written / "report.html").read_text()


def test_the_same_command_writes_the_same_bytes(written, folder, shards, tmp_path):
    assert call(report_main, folder, "--data", shards[0], *FEW, "--out", tmp_path / "again.html") == 0
    assert (tmp_path / "again.html").read_bytes() == (written / "report.html").read_bytes()


def test_neighbours_are_those_of_other_pictures(report, shards):
    assert report.near.share_nearer == pytest.approx(report.near.nearer.mean().item())
    assert set(report.training.keys).isdisjoint(report.keys)
    assert "nearest training pictures" not in report.left_out
    own = make_report(tiny(8, 16, classes=len(shards[1])), str(shards[0]), Wanted(split="train", num=4))
    assert own.near is None
    assert "are the training pictures" in own.left_out["nearest training pictures"]


def test_captions_cannot_write_html(report):
    evil = "<script>alert(1)</script> \"'>"
    each = [replace(row, caption=evil, group=evil) for row in report.each]
    text = page(replace(report, captions=(evil,) * 8, each=each, groups={"group": [evil] * 4 + ["b"] * 4}, data=evil))
    assert "<script" not in text
    assert "&lt;script&gt;" in text


def test_nothing_is_fetched(written):
    text = (written / "report.html").read_text()
    assert re.findall(r"""(?:src|href)=["'](?!data:|#)[^"']*""", text) == []
    assert "url(" not in text
    assert "default-src 'none'" in text


def test_an_interrupted_report_leaves_nothing(folder, shards, tmp_path):
    timer = threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    try:
        code = call(
            report_main, folder, "--data", shards[0], "--num", 0, "--steps", "200", "--out", tmp_path / "report.html"
        )
    finally:
        timer.cancel()
    assert code == 130
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "--data SHARDS is needed"),
        (("--num", "-3"), "--num -3: give at least 0 pictures"),
        (("--num", "2"), "2 pictures of split val; at least 4 are needed"),
        (("--num-curve", "1"), "--num-curve 1: give at least 4 pictures"),
        (("--out", "/nowhere/report.html"), "there is no folder /nowhere"),
        (("--steps", "1,2.5"), "--steps 1,2.5: whole numbers from 1 to 1000"),
        (("--guidance", "much"), "--guidance much: numbers from 0 to 100"),
        (("--split", "test"), "no split 'test'"),
    ],
)
def test_mistakes_are_one_line(folder, shards, tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.chdir(tmp_path)
    data = () if not options else ("--data", shards[0])
    assert call(report_main, folder, *data, *options) == 2
    error = capsys.readouterr().err
    assert message in error.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_match_is_the_rank_of_the_own_picture():
    real = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    assert matches(real, real).min() > 0.999
    assert matches(real, real[torch.randperm(200)]).mean().item() == pytest.approx(0.5, abs=0.06)
    assert matches(real, torch.zeros(200, 4)).mean().item() == pytest.approx(0.5, abs=0.01)  # one picture for all
    line = torch.arange(5.0)[:, None]
    assert matches(line, line + 0.9).min() == 1  # a common fault is not its business
    swapped = line[[1, 0, 2, 3, 4]]
    assert matches(line, swapped).tolist() == [0.625, 0.75, 1.0, 1.0, 1.0]  # of 1, true 0: 1 is nearer, 2 as near


def test_what_shards_say_about_pictures(shards):
    about = read_about(str(shards[0]), "val")
    assert all(each.caption and each.facts["width"] for each in about.values())
    groups = groupings([About(facts={"group": "a", "style": k, "kind": "one"}) for k in range(3)] + [About()])
    assert groups == {"style": ["0", "1", "2", ""], "group": ["a"] * 3 + [""], "kind": ["one"] * 3 + [""]}
    assert groupings([About(facts={"group": "a"})] * 3) == {}


@pytest.mark.parametrize("values", [[0.1, 0.2], [-3, 500], [1, 1], [0, 0], [1e-9, 2e-9], [-0.001]])
def test_ticks_are_few_and_enclose(values):
    ticks = nice_ticks(values)
    assert 2 <= len(ticks) <= 8
    assert ticks[0] <= min(values)
    assert max(values) <= ticks[-1]
    assert ticks[0] < ticks[-1]


def test_a_point_lies_where_its_value_is():
    line = Line(name="a", points=[(0, 1.0, None), (1, 3.0, 0.5), (2, 2.0, None)])
    svg = Chart(title="t", x_name="x", lines=[line], chosen=1.0).svg()
    places = [tuple(map(float, each)) for each in re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', svg)]
    (x0, y0), (x1, y1), (x2, y2) = places
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert (y0 - y2) == pytest.approx(y2 - y1, abs=0.2)  # evenly apart in value, so in height
    assert y1 < y2 < y0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1200])
def test_the_page_in_a_browser(written, browser, width, scheme):
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    tab, said, asked = context.new_page(), [], []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("request", lambda request: asked.append(request.url) if not request.url.startswith("data:") else None)
    tab.goto((written / "report.html").as_uri())
    assert said == []
    assert len(asked) == 1  # the file itself
    assert tab.evaluate("[...document.images].filter(image => !image.naturalWidth).length") == 0
    assert tab.evaluate("document.images.length") > 40
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    headings = tab.locator("h2").all_inner_texts()
    assert {
        "Scores",
        "Which stage is at fault",
        "Strength of augmentation",
        "Worst samples",
        "What is not here",
    } <= set(headings)
    assert tab.locator("svg[role=img]").count() >= 10
    dark = tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 21, 23)"
    assert dark == (scheme == "dark")
    assert faint(tab) == []
    context.close()
