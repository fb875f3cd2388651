"""Rulers of things and styles: what each form has seen, what it finds, its file, and data from which none can be made."""

import json

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from cascade.judge.__main__ import concepts_main, ruler_main, score_main
from cascade.judge.concepts import hidden, judged, line, references, taken
from cascade.judge.kernel import kernel_distance
from cascade.judge.labelled import load_labelled
from cascade.judge.ruler import ThingRuler
from cascade.judge.ruler_file import load_ruler, save_ruler
from cascade.judge.stored import load_moments
from data.pack.packer import pack
from data.pack.settings import PackSettings
from tests.calling import call

from .styled import STYLES, chosen, rows_of, write_styles

WHITE = (255, 255, 255)
DIMENSIONS = 8


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder of 60 things in three styles, and its two rulers."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("world")
    folder = write_styles(root / "data")
    assert call(ruler_main, folder, "--out", root / "rulers", "--size", 32, "--dimensions", DIMENSIONS) == 0
    return folder, root / "rulers"


def train(folder, form):
    return ThingRuler.train(load_labelled(folder, size=32), form=form, background=WHITE, dimensions=DIMENSIONS)


def shares(ruler, path, capsys, tmp_path, *options):
    """The lines of the report by name, and what was printed."""
    assert call(concepts_main, ruler, path, "--json", tmp_path / "out.json", *options) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    return {each["name"]: each for each in found["lines"]}, capsys.readouterr()


def test_form_a_has_never_seen_a_hidden_picture(world, tmp_path):
    folder, rulers = world
    other = write_styles(tmp_path / "other", spoil=lambda image: image.rotate(90))
    a, b = (load_ruler(rulers / f"{form}.safetensors") for form in "AB")
    for known, is_same in ((a, True), (b, False)):
        again = train(other, known.form)
        for first, second in ((known.to_thing, again.to_thing), (known.to_style, again.to_style)):
            assert torch.equal(first.matrix.float(), second.matrix.float()) == is_same
        assert again.sha256 != known.sha256  # the file holds the hidden pictures' numbers, for the ceiling
    assert (int(a.learned.sum()), int(b.learned.sum())) == (168, 180)
    assert rows_of(folder)[0]["split"] == "unseen pair"


def test_hidden_pictures_are_found_and_copies_are_told_by_their_style(world):
    ruler = load_ruler(world[1] / "A.safetensors")
    asked = hidden(ruler)
    assert len(asked) == 12
    found = line("true", judged(ruler, taken(ruler.embedded, asked.true), asked))
    beside = {each.name: each for each in references(ruler, asked, taken(ruler.embedded, asked.true))}
    assert found.concept.share >= 0.75  # of 60 things: by chance 0.02
    assert found.style.share == 1
    assert beside["ceiling: the true pictures"].concept == found.concept
    assert beside["copies: the other styles"].concept.share > 0.9
    assert beside["copies: the other styles"].style.right == 0
    assert beside["copies: the nearest caption"].style.share > 0.9
    assert beside["copies: the nearest caption"].both.share < 0.1
    assert beside["shuffled captions"].concept.share < 0.2


def test_form_b_knows_what_it_was_shown(world):
    ruler = load_ruler(world[1] / "B.safetensors")
    asked = hidden(ruler)
    assert line("true", judged(ruler, taken(ruler.embedded, asked.true), asked)).both.share == 1


def test_true_pictures_are_at_the_ceiling_in_any_company(world, tmp_path, capsys):
    folder, rulers = world
    held = [row for row in rows_of(folder) if row["split"] != "train"]
    pictures = chosen(tmp_path / "true", folder, held)
    found, _ = shares(rulers / "A.safetensors", pictures, capsys, tmp_path, "--csv", tmp_path / "out.csv")
    assert found["pictures"]["both"] == found["ceiling: the true pictures"]["both"]
    assert {f"half {half}" for half in ("dev", "test")} | {f"style {style}" for style in STYLES} <= set(found)
    assert found["half dev"]["num"] + found["half test"]["num"] == 12
    lines = (tmp_path / "out.csv").read_text().splitlines()
    assert len(lines) == 13
    assert lines[0].startswith("picture,text,thing,style,")
    test_half, _ = shares(rulers / "A.safetensors", pictures, capsys, tmp_path, "--half", "test")
    assert test_half["pictures"]["num"] == found["half test"]["num"]


def test_another_style_has_the_thing_right_and_the_style_wrong(world, tmp_path, capsys):
    folder, rulers = world
    rows = [row | {"picture": f"filled/{row['file_name'].split('/')[1]}"} for row in rows_of(folder)[:60]]
    pictures = chosen(tmp_path / "copies", folder, [row for row in rows if row["style"] == "outline"])
    found, printed = shares(rulers / "B.safetensors", pictures, capsys, tmp_path)
    assert found["pictures"]["concept"]["share"] > 0.8
    assert found["pictures"]["style"]["right"] == 0
    assert "copies: the other styles" in printed.out


def test_a_caption_may_tell_the_style_and_the_thing(world, tmp_path, capsys):
    folder, rulers = world
    rows = [{"file_name": r["file_name"], "text": f"{r['text']}, {r['style']}"} for r in rows_of(folder)[30:60]]
    pictures = chosen(
        tmp_path / "told", folder, [*rows, {**rows[0], "picture": "filled/0001.png", "text": "a cat, pale"}]
    )
    found, printed = shares(rulers / "B.safetensors", pictures, capsys, tmp_path)
    assert found["pictures"]["num"] == 30
    assert "the ruler knows no thing 'a cat' in style 'pale'; it is left out" in printed.err


def test_packed_shards_are_data_and_pictures(world, tmp_path, capsys):
    folder, rulers = world
    options = PackSettings(size=32, label_column="style", splits=False, shards=2)
    pack(folder, tmp_path / "shards", options, workers=0)
    assert call(ruler_main, tmp_path / "shards", "--out", tmp_path / "rulers", "--size", 32, "--dimensions", 8) == 0
    packed, plain = (load_ruler(path / "A.safetensors") for path in (tmp_path / "rulers", rulers))
    assert packed.styles == plain.styles
    assert int(packed.hidden.sum()) == 12
    assert packed.known[0].text == next(row.text for row in plain.known if row.thing == packed.known[0].thing)
    found, _ = shares(rulers / "B.safetensors", tmp_path / "shards", capsys, tmp_path)
    assert found["pictures"]["num"] == 180
    assert found["pictures"]["style"]["share"] > 0.95


def test_the_file_is_what_was_trained(world, tmp_path):
    trained = train(world[0], "A")
    save_ruler(tmp_path / "A.safetensors", trained)
    loaded = load_ruler(tmp_path / "A.safetensors")
    assert loaded.sha256 == trained.sha256
    pictures = load_labelled(world[0], size=32).pictures[:9]
    assert torch.equal(loaded.embed(pictures).features, trained.embed(pictures).features)
    assert torch.equal(loaded.embedded.features, trained.embedded.features)
    assert trained.embedded.features.shape == (180, DIMENSIONS)
    assert (tmp_path / "A.safetensors").read_bytes() == (world[1] / "A.safetensors").read_bytes()


def changed(source, target):
    with safe_open(source, framework="pt") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    tensors["thing.matrix"][0, 0] += 1e-3
    save_file(tensors, target, metadata=metadata)


def renamed(source, target):
    with safe_open(source, framework="pt") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    metadata["ruler"] = metadata["ruler"].replace("thing 3", "thing x")
    save_file(tensors, target, metadata=metadata)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (changed, "is not what its hash says"),
        (renamed, "is not what its hash says"),
        (lambda a, b: b.write_bytes(a.read_bytes()[:-100]), "no ruler, or damaged"),
        (lambda a, b: b.write_bytes(b"text"), "no ruler, or damaged"),
        (lambda a, b: save_file({"x": torch.zeros(1)}, b), "no ruler, or damaged"),
        (lambda a, b: None, "is no file; train a ruler with"),
    ],
)
def test_a_file_that_is_no_whole_ruler_is_refused(world, tmp_path, capsys, spoil, message):
    spoil(world[1] / "A.safetensors", tmp_path / "bad.safetensors")
    assert call(concepts_main, tmp_path / "bad.safetensors", world[0]) == 2
    assert message in capsys.readouterr().err


def without(folder, source, **changes):
    """The world with columns changed by functions of the row, or removed."""
    rows = rows_of(source)
    for row in rows:
        for name, change in changes.items():
            row[name] = change(row) if change else None
    return chosen(folder, source, [row | {"picture": row["file_name"]} for row in rows])


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"style": None}, (), "180 of 180 pictures, 0.png first, have no style in column 'style'; name the column"),
        ({"thing": None}, (), "have no thing in column 'thing'; name the column with --thing-column"),
        ({"style": lambda row: "filled"}, (), "has one style only, 'filled'; at least two are needed"),
        (
            {"thing": lambda row: row["thing"] + row["style"]},
            (),
            "0 pictures to learn from are of things in two styles",
        ),
        ({}, ("--dimensions", 64), "for 64 dimensions 640 are needed: add pictures, or set --dimensions 16"),
        ({}, ("--dimensions", 2), "--dimensions 2 is out of range"),
        ({}, ("--size", 64), "no picture can be used; 0.png: 32 x 32 px; a square of at least 64 px is needed"),
        ({}, ("--size", 4), "--size 4 is out of range"),
        ({}, ("--background", "nothing"), "--background nothing: allowed are white and grey"),
    ],
)
def test_data_from_which_no_ruler_can_be_made(world, tmp_path, capsys, changes, options, message):
    folder = without(tmp_path / "data", world[0], **changes)
    options = ("--dimensions", 8, "--size", 32, *options)
    assert call(ruler_main, folder, "--out", tmp_path / "rulers", *options) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "rulers").exists()


def test_a_few_pictures_without_a_thing_are_named_and_left_out(world, tmp_path, capsys):
    folder = without(tmp_path / "data", world[0], thing=lambda row: "" if row["thing"] == "thing 7" else row["thing"])
    assert call(ruler_main, folder, "--out", tmp_path / "rulers", "--dimensions", 8, "--size", 32) == 0
    assert "3 pictures, 21.png first, have no thing; they are left out" in capsys.readouterr().err
    assert len(load_ruler(tmp_path / "rulers/A.safetensors").known) == 177


def test_pictures_on_another_background_are_refused_and_noise_is_not(world, tmp_path, capsys):
    folder, rulers = world
    grey, noise = ((tmp_path / name) for name in ("grey", "noise"))
    rows = rows_of(folder)[:30]
    for target in (grey, noise):
        target.mkdir()
        (target / "metadata.jsonl").write_text(
            "".join(json.dumps(row | {"file_name": f"{k}.png"}) + "\n" for k, row in enumerate(rows))
        )
    for k, row in enumerate(rows):
        image = Image.open(folder / row["file_name"])
        on_grey = Image.new("RGB", image.size, (128, 128, 128))
        on_grey.paste(image, mask=image.getchannel("A"))
        on_grey.save(grey / f"{k}.png")
        pixels = torch.randint(0, 256, (32, 32, 3), generator=torch.Generator().manual_seed(k)).byte()
        Image.fromarray(pixels.numpy()).save(noise / f"{k}.png")
    assert call(concepts_main, rulers / "A.safetensors", grey) == 2
    assert "most pictures stand on (128, 128, 128), the ruler is for (255, 255, 255)" in capsys.readouterr().err
    found, _ = shares(rulers / "A.safetensors", noise, capsys, tmp_path)
    assert found["pictures"]["both"]["share"] < 0.2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--half", "third"), "--half 'third' is not one of dev, test"),
        (("--kind", "lost"), "--kind 'lost': pictures are hidden as unseen pair"),
        (("--json", "no/where.json"), "there is no folder no"),
    ],
)
def test_wrong_options_are_one_line(world, capsys, options, message):
    assert call(concepts_main, world[1] / "A.safetensors", world[0], *options) == 2
    assert message in capsys.readouterr().err


def test_captions_that_no_one_knows_are_one_line(world, tmp_path, capsys):
    folder = without(tmp_path / "data", world[0], thing=None, text=lambda row: "a cat")
    assert call(concepts_main, world[1] / "A.safetensors", folder) == 2
    assert "none of 180 pictures can be asked about; 0.png: the ruler knows no thing 'a cat'" in capsys.readouterr().err


def test_a_ruler_measures_sets_in_place_of_look(world, tmp_path, capsys):
    folder, rulers = world
    known = load_ruler(rulers / "A.safetensors")
    sides = [chosen(tmp_path / f"{k}", folder, rows_of(folder)[k::2]) for k in range(2)]
    options = ("--ruler", rulers / "A.safetensors", "--device", "cpu", "--json", tmp_path / "out.json")
    assert call(score_main, *sides, *options, "--save", tmp_path / "out.npz") == 0
    found = json.loads((tmp_path / "out.json").read_text())
    assert (found["ruler"], found["ruler_sha256"]) == ("things-A", known.sha256)
    real, generated = (known.embed(load_labelled(each, size=32).pictures).features for each in sides)
    assert found["scores"]["KID"] == pytest.approx(kernel_distance(real, generated).value, rel=1e-6)
    assert found["left_out"]["floor of FD"] == f"90 real pictures; {20 * DIMENSIONS} are needed"
    assert load_moments(tmp_path / "out.npz").ruler == known.identity
    capsys.readouterr()
    assert call(score_main, *sides, *options, "--size", 16) == 2
    assert "the ruler needs squares of at least 32 px" in capsys.readouterr().err
    assert call(score_main, *sides, "--ruler", tmp_path / "none.safetensors") == 2
    assert "is no file; train a ruler with" in capsys.readouterr().err
    assert call(score_main, *sides, *options, "--background", "grey") == 2
    assert "the ruler is for (255, 255, 255)" in capsys.readouterr().err
