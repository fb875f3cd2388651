"""The model card: those that ship are what the command writes; what it gathers, keeps, drops and refuses."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

from cascade.card import hand
from cascade.card.__main__ import main
from cascade.card.chain import read_chain
from cascade.card.commands import changes
from cascade.card.gather import pack_options
from cascade.card.kept import KEPT, read_kept
from cascade.card.writing import CARD, MARK, check_card, write_card
from cascade.config import CascadeConfig
from cascade.judge.report import Wanted, make_report
from cascade.manifest import MANIFEST
from cascade.pipeline import Cascade
from data.index import load
from data.pack.packer import pack
from data.pack.settings import PackSettings
from stages.bundle import Ancestor, Provenance, read_sidecar, save_bundle
from stages.runs import read_lines
from stages.training.start import licence_of
from tests.calling import call
from tests.cascade.chains import random_weights, tiny_config, write_cascade

ROOT = Path(__file__).parents[2]
SHIPPED = sorted(path.parent for path in (ROOT / "cascade" / "shipped").glob("*/cascade.json"))
SPECIFIED = {  # keys of Hugging Face's modelcard.md that we use
    "license", "license_name", "license_link", "language", "library_name", "pipeline_tag", "tags", "datasets", "metrics",
    "model-index",
}  # fmt: skip


@pytest.fixture
def shipped(tmp_path) -> Path:
    """A copy of emoji_tiny, of which nothing was gathered."""
    folder = shutil.copytree(ROOT / "cascade" / "shipped" / "emoji_tiny", tmp_path / "emoji_tiny")
    (folder / KEPT).unlink(missing_ok=True)
    return folder


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("carded") / "mine"
    pack(
        ROOT / "data" / "emoji64", folder, PackSettings(size=16, limit=24, val=0.4, shards=1, label_column="group"), workers=0
    )  # fmt: skip
    return folder


@pytest.fixture
def own(tmp_path, shards) -> Path:
    """A cascade of random weights that says it was trained on `shards`."""
    index = load(shards)
    classes = tuple(index.classes or ())
    config = tiny_config(8, 16, classes=len(classes))
    folder = write_cascade(tmp_path / "own", config, classes=classes)
    for name, stage in config.stages.items():
        provenance = Provenance(nimg=100, ema=1, data=index.fingerprint, classes=classes, versions={})
        save_bundle(
            folder / name / "bundle", random_weights(stage), config=stage, text_encoder=None, provenance=provenance
        )
    return folder


def head_of(folder: Path) -> dict:
    return yaml.safe_load((folder / CARD).read_text().split("---\n")[1])


def body_of(folder: Path) -> str:
    return (folder / CARD).read_text().split("---\n", 2)[2]


class TestShipped:
    @pytest.mark.parametrize("folder", SHIPPED, ids=lambda folder: folder.name)
    def test_the_cards_that_ship_are_what_the_command_writes(self, folder, capsys):
        assert call(main, folder, "--check") == 0, capsys.readouterr().err

    @pytest.mark.parametrize("folder", SHIPPED, ids=lambda folder: folder.name)
    def test_the_head_is_as_specified(self, folder):
        head = head_of(folder)
        assert head.keys() <= SPECIFIED
        assert (head["license"] == "other") == ("license_name" in head) == ("license_link" in head)
        if "license_link" in head:
            assert (folder / head["license_link"]).is_file()
        assert licence_of(read_chain(folder).stages[0].bundle) == head.get("license_name", head["license"])

    @pytest.mark.parametrize("folder", SHIPPED, ids=lambda folder: folder.name)
    def test_the_hubs_own_library_reads_the_head(self, folder):
        """With the scores of model-index, which it takes apart."""
        read, head = ModelCard.load(folder / CARD).data, head_of(folder)
        assert (read.license, read.pipeline_tag) == (head["license"], head["pipeline_tag"])
        assert read.datasets == head.get("datasets")
        assert [score.metric_value for score in read.eval_results or ()] == [
            metric["value"]
            for each in head.get("model-index", ())
            for result in each["results"]
            for metric in result["metrics"]
        ]

    @pytest.mark.parametrize("folder", SHIPPED, ids=lambda folder: folder.name)
    def test_numbers_are_those_of_the_files(self, folder):
        text = body_of(folder)
        for stage in read_chain(folder).stages:
            assert f"`{stage.sidecar.sha256}`" in text
            assert f"{stage.sidecar.provenance.nimg:,}" in text
            weights = random_weights(stage.sidecar.config)
            assert stage.num_parameters <= sum(weight.numel() for weight in weights.values())
            assert stage.num_bytes > 2 * stage.num_parameters  # half precision, and a header


class TestStale:
    def test_a_changed_setting_is_found(self, shipped, capsys):
        write_card(shipped)
        manifest = shipped / MANIFEST
        manifest.write_text(manifest.read_text().replace('"num_steps": 16', '"num_steps": 17'))
        capsys.readouterr()
        assert call(main, shipped, "--check") == 1
        (line,) = capsys.readouterr().err.splitlines()
        number = int(re.search(r"README\.md: stale from line (\d+) on; write it anew with: python -m", line)[1])
        assert (shipped / CARD).read_text().splitlines()[number - 1].startswith("| `base_16` | dpmpp_2m | 16 |")
        assert call(main, shipped) == 0
        assert call(main, shipped, "--check") == 0

    def test_none_at_all(self, shipped, capsys):
        (shipped / CARD).unlink()
        assert call(main, shipped, "--check") == 1
        assert "README.md: not there; write it anew" in capsys.readouterr().err

    def test_the_same_bytes_every_time_and_anywhere(self, shipped, tmp_path):
        write_card(shipped)
        moved = shutil.copytree(shipped, tmp_path / "elsewhere" / "deeper")
        write_card(moved, out=tmp_path / "again.md")
        assert (tmp_path / "again.md").read_bytes() == (shipped / CARD).read_bytes()


class TestByHand:
    def test_sections_stand_where_they_belong(self, shipped):
        (shipped / hand.HAND).write_text(
            "---\ntitle: mine\nlicense: mit\nprompts: [a cat]\n---\nHello.\n\n## Mine\n\n```\n## no title\n```\n\n"
            "## What it cannot do\n\nFly.\n"
        )
        write_card(shipped)
        text = body_of(shipped)
        assert head_of(shipped)["license"] == "mit"
        assert "# emoji_tiny: mine, 16 -> 64 px\n\nHello.\n" in text
        assert 'python sample.py "a cat" --cascade' in text
        sections = re.findall(r"^## (.*)$", text, re.MULTILINE)
        assert sections == [
            "Stages",
            "Training",
            "Data",
            "Sampling",
            "Mine",
            "no title",
            "What it cannot do",
            "Licences",
        ]
        assert "are cut at 16 tokens." in text.split("## What it cannot do")[1].split("Fly.")[0]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("---\ntitle: x\n", "its head has no end"),
            ("---\ntitel: x\n---\n", "titel"),
            ("---\nlicense: other\n---\n", "license other has a license_name and a license_link"),
            ("---\nlicense: mit\nlicense_name: mine\nlicense_link: X\n---\n", "other licences have neither"),
            ("---\nlicense: [\n---\n", "its head is not YAML"),
            ("---\ndatasets: [a b]\n---\n", "datasets"),
            ("## A\n\n## A\n", "two sections 'A'"),
        ],
    )
    def test_mistakes_are_one_line_and_nothing_is_written(self, shipped, capsys, text, message):
        before = (shipped / CARD).read_bytes()
        (shipped / hand.HAND).write_text(text)
        assert call(main, shipped) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "card.md" in line
        assert message in line
        assert (shipped / CARD).read_bytes() == before

    def test_a_readme_of_others_stays(self, shipped, capsys):
        (shipped / CARD).write_text("mine\n")
        assert call(main, shipped) == 2
        assert "was not written by this command" in capsys.readouterr().err
        assert (shipped / CARD).read_text() == "mine\n"
        assert MARK not in (shipped / CARD).read_text()


class TestData:
    def test_it_is_counted_and_kept(self, own, shards):
        write_card(own, data=[str(shards)])
        index, text = load(shards), body_of(own)
        held = index.num_images["val"]
        row = f"| mine | `{index.fingerprint[:12]}` | `base_8`, `sr_16` | {24 - held} | {held} val | 16 x 16 |"
        assert row in text
        assert "python sample.py --label" in text
        write_card(own)
        assert body_of(own) == text
        assert str(shards.parent) not in text + (own / KEPT).read_text()

    def test_hidden_parts_are_counted(self, own, tmp_path):
        """By the fact `part` of the pictures that are not trained on, as data.styles writes it."""
        from cascade.card.gather import data_facts

        rows = [json.loads(line) for line in (ROOT / "data/emoji64/metadata.jsonl").read_text().splitlines()[:12]]
        (tmp_path / "pictures").mkdir()
        for k, row in enumerate(rows):
            shutil.copy(ROOT / "data/emoji64" / row["file_name"], tmp_path / "pictures")
            row |= {"split": "val" if k < 5 else "train", "part": ("pair", "finish")[k % 2]}
        (tmp_path / "pictures" / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        index = pack(tmp_path / "pictures", tmp_path / "shards", PackSettings(size=16), workers=0)
        assert data_facts(str(tmp_path / "shards"), index).hidden == {"finish": 2, "pair": 3}

    def test_options_given_several_times_are_told_so(self):
        """As the index has them, from JSON."""
        settings = PackSettings(size=8, text_encoder="x", caption=("name=0.5", "tags=0.25"), list_column=("tags=|",))
        options = pack_options(json.loads(json.dumps(settings.told())))
        assert options == (
            [
                "--size",
                "8",
                "--text-encoder",
                "x",
                "--caption",
                "name=0.5",
                "--caption",
                "tags=0.25",
                "--list-column",
                "tags=|",
            ]
        )
        assert pack_options({"size": 8, "caption": [], "list_column": []}) == ["--size", "8"]

    @pytest.mark.parametrize(
        ("source", "maps", "told"), [("metadata", "/home/me/maps", "MAPS"), ("tars", "map.png", "map.png")]
    )
    def test_a_folder_of_maps_is_not_told_by_its_path(self, source, maps, told):
        assert pack_options({"size": 8, "source": source, "maps": maps}) == ["--size", "8", "--maps", told]

    def test_other_data_are_refused(self, own, shipped, shards, capsys):
        assert call(main, shipped, "--data", shards) == 2
        assert f"fingerprint {load(shards).fingerprint[:12]}, but {shipped} was trained" in capsys.readouterr().err


class TestRuns:
    def test_hours_and_machine_are_logged(self, tmp_path):
        """Of a real run: 24 images at three rates."""
        folder = shutil.copytree(ROOT / "tests" / "kept" / "first" / "runs" / "alone", tmp_path / "alone")
        lines = [json.loads(line) for line in (folder / "base_8" / "metrics.jsonl").read_text().splitlines()]
        seconds = sum(8 / line["img_per_s"] for line in lines)
        assert [line["nimg"] for line in lines] == [8, 16, 24]
        write_card(folder)
        run = read_kept(folder).runs[read_sidecar(folder / "base_8" / "bundle").sha256]
        assert (run.device, run.threads, run.world, run.seconds) == ("cpu", 1, 1, round(seconds, 1))
        bare = tmp_path / "bare"
        shutil.copytree(folder / "base_8" / "bundle", bare / "base_8" / "bundle")
        write_card(bare, runs=folder)
        assert "| `base_8` | cpu | 1 | 1 |" in body_of(bare)

    def test_weights_that_a_sweep_chose_are_of_the_run_beside_them(self, tmp_path):
        """Up to the image that they were taken at; without them in the folder, another run is still refused."""
        folder = shutil.copytree(ROOT / "tests" / "kept" / "first" / "runs" / "alone", tmp_path / "alone")
        bundle = read_sidecar(folder / "base_8" / "bundle")
        save_bundle(
            folder / "base_8" / "swept", random_weights(bundle.config), config=bundle.config,
            text_encoder=bundle.contract.text_encoder, provenance=bundle.provenance.model_copy(update={"nimg": 16}),
        )  # fmt: skip
        manifest = folder / MANIFEST
        manifest.write_text(manifest.read_text().replace("base_8/bundle", "base_8/swept"))
        write_card(folder)
        swept, lines = read_sidecar(folder / "base_8" / "swept").sha256, read_lines(folder / "base_8")
        run = read_kept(folder).runs[swept]
        assert swept != bundle.sha256
        assert run.seconds == round(sum(8 / line["img_per_s"] for line in lines[:2]), 1)
        elsewhere = shutil.copytree(folder, tmp_path / "elsewhere")
        with pytest.raises(ValueError, match="its bundle has other weights"):
            write_card(folder, runs=elsewhere)

    def test_runs_of_other_weights_are_refused(self, tmp_path, capsys):
        first = ROOT / "tests" / "kept" / "first" / "runs"
        shutil.copytree(first / "alone" / "base_8" / "bundle", tmp_path / "base_8" / "bundle")
        assert call(main, tmp_path, "--runs", first / "two") == 2
        assert "its bundle has other weights" in capsys.readouterr().err
        assert call(main, tmp_path, "--runs", tmp_path) == 2
        assert "no run of base_8 in it" in capsys.readouterr().err


class TestReports:
    def test_scores_are_told_while_they_are_of_these_weights_and_settings(self, own, shards, tmp_path, capsys):
        found = make_report(Cascade.load(own), str(shards), Wanted(num=6, num_training=8)).as_json()
        file = tmp_path / "report.json"
        file.write_text(json.dumps(found))
        assert call(main, own, "--report", file, "--data", shards) == 0
        text, (results,) = body_of(own), (each["results"] for each in head_of(own)["model-index"])
        swd = found["stages"][-1]["brief"]["swd"]
        assert f"{swd[0]:.3g} +- {swd[1]:.2g}" in text
        assert "on 6 pictures of split `val` of mine" in text
        assert "Nearer to a training picture" in text
        assert [metric["value"] for metric in results[0]["metrics"] if metric["type"] == "swd"] == [
            float(f"{swd[0]:.4g}")
        ]
        assert call(main, own, "--check") == 0

        manifest = own / MANIFEST
        manifest.write_text(manifest.read_text().replace('"num_steps": 2', '"num_steps": 3'))
        capsys.readouterr()
        assert call(main, own, "--report", file) == 2
        assert "stage base_8 sampled with other settings there" in capsys.readouterr().err
        assert call(main, own) == 0
        told = capsys.readouterr().out.splitlines()
        assert told[0] == "left out: the report on mine: stage base_8 sampled with other settings there"
        assert told[1:] == [str(own / CARD)]
        assert "## Scores" not in body_of(own)
        assert "nothing here says how far they repeat" in body_of(own)
        assert "model-index" not in head_of(own)

    @pytest.mark.parametrize("text", ["[]", "{}", "no", '{"wanted": {}}'])
    def test_what_is_no_report(self, own, tmp_path, capsys, text):
        (tmp_path / "x.json").write_text(text)
        assert call(main, own, "--report", tmp_path / "x.json") == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "x.json" in line
        assert not (own / CARD).exists()


def test_what_weights_came_from_stands_with_its_licence(own, shipped):
    """With the licence file of its cascade, also when that is gone later."""
    bundle = shipped / "base_16" / "bundle"
    ancestor = Ancestor(sha256=read_sidecar(bundle).sha256, nimg=45_008, data="d" * 64, licence="mit-like")
    config = read_sidecar(own / "base_8" / "bundle").config
    config = config.model_copy(update={"train": config.train.model_copy(update={"init": str(bundle)})})
    provenance = Provenance(nimg=8, ema=1, data="none", versions={}, ancestors=(ancestor,), classes=None)
    save_bundle(
        own / "base_8" / "bundle", random_weights(config), config=config, text_encoder=None, provenance=provenance
    )
    for _ in range(2):
        write_card(own)
        text = body_of(own)
        assert "licence: mit-like; its terms hold for this stage, too." in text
        assert "> Color Emoji, Copyright Google LLC, SIL Open Font License 1.1" in text
        shutil.rmtree(shipped, ignore_errors=True)


def test_what_stands_beside_a_stage_is_named(own):
    """A guide, by its weights."""
    shutil.copytree(own / "base_8" / "bundle", own / "base_8" / "guide")
    manifest = json.loads((own / MANIFEST).read_text())
    manifest["stages"]["base_8"]["guide"] = "base_8/guide"
    (own / MANIFEST).write_text(json.dumps(manifest))
    write_card(own)
    sha256 = read_sidecar(own / "base_8" / "guide").sha256
    assert f"has a guide for autoguidance, `base_8/guide`: weights `{sha256[:12]}` after 100 images" in body_of(own)


def test_the_command_that_trained_has_what_differs_from_the_yaml(own):
    """Only what changes the weights; places of bundles by a word."""
    stage = read_chain(own).stages[0]
    config = CascadeConfig(name="own", stages={stage.name: stage.sidecar.config})
    train = stage.sidecar.config.train.model_copy(
        update={"images": 77, "lr": 0.5, "workers": 9, "init": "/home/me/bundle"}
    )
    changed = stage.sidecar.model_copy(update={"config": stage.sidecar.config.model_copy(update={"train": train})})
    told = list(changes(config, dataclasses.replace(stage, sidecar=changed)))
    assert told == ["stages.base_8.train.images=77", "stages.base_8.train.init=BUNDLE", "stages.base_8.train.lr=0.5"]


def test_damaged_weights_get_no_card(shipped, capsys):
    (shipped / "sr_64" / "bundle" / "ema.safetensors").write_bytes(b"x")
    assert call(main, shipped) == 2
    assert "its sha256 is not the one in stage.json" in capsys.readouterr().err
    with pytest.raises(ValueError, match="sha256"):
        check_card(shipped)
