"""Scenes show what their captions say; nothing hidden is shown where it must not be."""

import json
from itertools import permutations

import numpy as np
import pytest

from data.shapes import COLORS, SHAPES
from data.world.__main__ import main
from data.world.captions import RELATIONS, Caption, Group, parse, relation
from data.world.kinds import AREAS, OBJECT_KINDS, Object, coverage
from data.world.scenes import GAP, HIDDEN, HIDDEN_PAIRS, HIDDEN_RELATIONS, Hidden, draw, scene, write_folder
from tests.calling import call


@pytest.mark.parametrize("kind", OBJECT_KINDS)
@pytest.mark.parametrize(("size", "finer"), [(32, 8), (200, 2)])
def test_area_and_centre_of_gravity_are_those_of_geometry(kind, size, finer):
    what = Object(kind=kind, color="red", x=0.52, y=0.47, radius=0.31)
    share = coverage(what, slice(0, size), slice(0, size), size, finer)
    assert share.mean() == pytest.approx(AREAS[kind] * 0.31**2, rel=0.01)
    assert 0 <= share.min() <= share.max() <= 1
    middles = (np.arange(size) + 0.5) / size
    assert (share.sum(0) * middles).sum() / share.sum() == pytest.approx(0.52, abs=0.001)
    assert (share.sum(1) * middles).sum() / share.sum() == pytest.approx(0.47, abs=0.001)


def test_captions_are_english():
    ring, star = Group(count=1, kind="ring", color="orange"), Group(count=3, kind="star", color="red")
    crosses = Group(count=2, kind="cross", color="black")
    assert Caption(groups=(star,)).text == "three red stars"
    assert Caption(groups=(ring, star)).text == "an orange ring and three red stars"
    assert Caption(groups=(ring, star, crosses)).text == "an orange ring, three red stars and two black crosses"
    assert Caption(groups=(crosses, ring), relation="left of").text == "two black crosses left of an orange ring"


def test_captions_can_be_read_back():
    for index in range(300):
        caption = scene(index).caption
        assert parse(caption.text) == caption


@pytest.mark.parametrize(
    "text", ["", "a red house", "two red star", "an red star", "four red stars", "a red star above", "red star",
             "a red star above a blue ring above a red cross", "a red star and"],
)  # fmt: skip
def test_other_captions_are_refused(text):
    with pytest.raises(ValueError, match="caption"):
        parse(text)


def test_scenes_are_functions_of_seed_and_index():
    assert scene(10**12, 3) == scene(10**12, 3)
    assert len({scene(index, seed) for index in range(20) for seed in range(3)}) == 60
    assert draw(scene(4), 33).tobytes() == draw(scene(4), 33).tobytes()
    assert scene(0, 0).caption.text == "a red circle above a black ring"  # of all versions and machines


def test_scenes_are_as_their_captions_say():
    for index in range(400):
        what = scene(index, 1)
        groups, objects = what.caption.groups, list(what.objects)
        if what.caption.relation == "inside":
            objects.reverse()
        named = [(each.kind, each.color) for each in groups for _ in range(each.count)]
        assert [(each.kind, each.color) for each in objects] == named
        for a in objects[: groups[0].count] if what.caption.relation else ():
            assert {relation(a, b) for b in objects[groups[0].count :]} == {what.caption.relation}
        for a, b in permutations(objects, 2):
            assert {relation(a, b), relation(b, a)} & set(RELATIONS)
            if what.caption.relation != "inside":
                assert np.hypot(a.x - b.x, a.y - b.y) >= a.radius + b.radius + GAP
        for each in objects:
            assert each.radius < min(each.x, each.y, 1 - each.x, 1 - each.y)


def test_all_forms_kinds_and_colours_are_common():
    scenes = [scene(index) for index in range(1200)]
    named = [group for what in scenes for group in what.caption.groups]
    for kind in OBJECT_KINDS:
        assert sum(each.kind == kind for each in named) > len(named) / 12
    for color in COLORS:
        assert sum(each.color == color for each in named) > len(named) / 12
    for name in RELATIONS:
        assert 150 < sum(what.caption.relation == name for what in scenes) < 250
    for num in (1, 2, 3):
        assert sum(what.caption.num_objects == num for what in scenes) > 100
        assert sum(what.caption.groups[0].count == num for what in scenes) > 100


@pytest.mark.parametrize("hidden", [HIDDEN, HIDDEN_PAIRS, HIDDEN_RELATIONS])
def test_a_train_set_never_shows_what_is_hidden_and_a_test_set_only_that(hidden):
    named = set()
    for index in range(400):
        assert not hidden.in_picture(scene(index, 2, show="train", hidden=hidden).objects)
        tested = scene(index, 2, show="test", hidden=hidden)
        assert hidden.in_caption(tested.caption)
        assert hidden.in_picture(tested.objects)
        named |= {(each.kind, each.color) for each in tested.caption.groups} & hidden.pairs
    assert named == hidden.pairs


def test_a_train_set_still_shows_every_kind_colour_relation_and_partner():
    scenes = [scene(index, show="train").caption for index in range(1500)]
    assert {(each.kind, each.color) for caption in scenes for each in caption.groups} == {
        (kind, color) for kind in OBJECT_KINDS for color in COLORS
    } - HIDDEN.pairs
    for name in RELATIONS:
        triples = {(c.groups[0].kind, name, c.groups[1].kind) for c in scenes if c.relation == name}
        assert {each[0] for each in triples} == set(OBJECT_KINDS)
        assert len({each[2] for each in triples}) == (4 if name == "inside" else 7)


def test_a_world_with_nothing_left_is_refused():
    everything = Hidden(pairs=frozenset((kind, color) for kind in OBJECT_KINDS for color in COLORS))
    with pytest.raises(ValueError, match="hide fewer"):
        scene(0, show="train", hidden=everything)
    with pytest.raises(ValueError, match="some for show='test'"):
        scene(0, show="test", hidden=Hidden())


@pytest.mark.parametrize("objects", [(1,), (2, 3), (3,)])
def test_scenes_of_chosen_numbers_of_objects(objects):
    scenes = [scene(index, show="train", objects=objects) for index in range(60)]
    assert {len(each.objects) for each in scenes} == set(objects) == {each.caption.num_objects for each in scenes}
    assert not any(HIDDEN.in_picture(each.objects) for each in scenes)


def test_all_numbers_of_objects_are_the_scenes_as_they_were():
    assert [scene(index, objects=(3, 2, 1)) for index in range(40)] == [scene(index) for index in range(40)]


@pytest.mark.parametrize("objects", [(), (0, 4)])
def test_numbers_of_objects_that_no_scene_has_are_refused(objects):
    with pytest.raises(ValueError, match="scenes have 1, 2, 3; name some"):
        scene(0, objects=objects)


@pytest.mark.parametrize("relations", [("inside",), ("above", "none")])
def test_scenes_of_chosen_relations(relations):
    scenes = [scene(index, show="train", relations=relations) for index in range(60)]
    assert {each.caption.relation or "none" for each in scenes} == set(relations)
    assert not any(HIDDEN.in_picture(each.objects) for each in scenes)


def test_all_relations_are_the_scenes_as_they_were():
    everything = ("inside", "none", "left of", "above")
    assert [scene(index, relations=everything) for index in range(40)] == [scene(index) for index in range(40)]


@pytest.mark.parametrize("relations", [(), ("beside",), ("none", "under")])
def test_relations_that_no_caption_tells_are_refused(relations):
    with pytest.raises(ValueError, match="above, left of, inside or none; name some"):
        scene(0, relations=relations)


def test_a_relation_of_one_object_is_refused():
    with pytest.raises(ValueError, match="relations need two objects"):
        scene(0, objects=(1,), relations=("inside",))


def test_kinds_of_shapes_are_kinds_of_the_world():
    assert OBJECT_KINDS[: len(SHAPES)] == SHAPES


def test_folder(tmp_path):
    folder = write_folder(tmp_path / "s", 5, 20, seed=2, show="train")
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    assert [row["text"] for row in rows] == [scene(index, 2, show="train").caption.text for index in range(5)]
    assert len(list(folder.glob("*.png"))) == 5


def test_folder_of_scenes_of_one_object(tmp_path):
    rows = (write_folder(tmp_path / "s", 9, 16, objects=(1,)) / "metadata.jsonl").read_text().splitlines()
    assert [json.loads(row)["text"] for row in rows] == [scene(index, objects=(1,)).caption.text for index in range(9)]


def test_a_folder_from_the_command_line_is_that_of_python(tmp_path):
    made = write_folder(tmp_path / "a", 4, 20, seed=3, show="train", relations=("inside",))
    command = [tmp_path / "b", "--num", 4, "--size", 20, "--seed", 3, "--show", "train", "--relation", "inside"]
    assert call(main, *command) == 0
    for each in made.iterdir():
        assert (tmp_path / "b" / each.name).read_bytes() == each.read_bytes()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--objects", 4), "scenes have 1, 2, 3"),
        (("--relation", "behind"), "captions tell above, left of, inside or none"),
        (("--relation", "inside", "--objects", 1), "relations need two objects"),
        (("--size", 8), "scenes are read from 16 px on"),
        (("--show", "val"), "not one of 'all', 'train', 'test'"),
    ],
)
def test_what_cannot_be_drawn_is_refused_before_there_is_a_folder(tmp_path, capsys, options, words: str):
    assert call(main, tmp_path / "new", *options) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("what", ["file", "folder"])
def test_what_is_there_stays_as_it_is(tmp_path, capsys, what: str):
    there = tmp_path / "there"
    kept = there if what == "file" else there / "note"
    kept.parent.mkdir(exist_ok=True)
    kept.write_text("mine")
    assert call(main, there) == 2
    assert "not an empty folder" in capsys.readouterr().err
    assert kept.read_text() == "mine"


@pytest.mark.parametrize("fault", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_nothing_half_drawn_stays(tmp_path, monkeypatch, capsys, fault):
    """Pictures without their metadata.jsonl would be packed without captions."""

    def fails(*_):
        raise fault

    with monkeypatch.context() as patch:
        patch.setattr("data.world.scenes.draw", fails)
        assert call(main, tmp_path / "new", "--num", 3) != 0
    assert list(tmp_path.iterdir()) == []
    assert call(main, tmp_path / "new", "--num", 3) == 0
    assert len(list((tmp_path / "new").glob("*.png"))) == 3
