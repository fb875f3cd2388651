"""What follows from a folder: sizes, channels, condition, split, flips; and what a user asked for instead."""

import pytest
from PIL import Image, ImageOps

from cascade.folder.choices import Asked, choose
from cascade.folder.survey import survey
from data.index.items import Choices as ReadAs
from data.pack.layout import held_out
from tests.folder.pictures import caption, fill, picture

LONG = Asked(minutes=20)


def words(captions):
    return [len(caption.split()) + 2 for caption in captions]


def chosen(folder, asked=LONG):
    return choose(survey(folder, ReadAs()), asked, words)


class TestSizes:
    @pytest.mark.parametrize(
        ("side", "minutes", "sides"),
        [
            (64, 20, (16, 64)),
            (127, 20, (16, 64)),
            (128, 20, (16, 64, 128)),
            (300, 20, (16, 64, 256)),
            (300, 2.9, (16, 64)),
        ],
    )
    def test_the_largest_that_nothing_is_enlarged_for(self, tmp_path, side, minutes, sides):
        assert chosen(fill(tmp_path / "a", 10, (side, side)), Asked(minutes=minutes)).sizes.value == sides

    def test_a_few_small_ones_do_not_decide(self, tmp_path):
        """A tenth may be smaller; what is below 64 px is left out."""
        folder = fill(tmp_path / "a", 19, (300, 300))
        picture(100, (40, 40)).save(folder / "small.png")
        found = chosen(folder)
        assert found.sizes.value == (16, 64, 256)
        assert len(found.source.items) == 19

    def test_cropping_is_told(self, tmp_path):
        reason = chosen(fill(tmp_path / "a", 10, (300, 100))).sizes.reason
        assert "half of the pictures lose 67 % or more, 10 of them over half" in reason

    def test_all_too_small(self, tmp_path):
        folder = fill(tmp_path / "a", 12, (40, 40))
        with pytest.raises(ValueError, match=r"12 of 12 pictures are smaller than 64 px .*--upscale to enlarge them"):
            chosen(folder)
        assert chosen(folder, Asked(minutes=20, upscale=True)).sizes.value == (16, 64)

    def test_a_size_that_is_asked_for(self, tmp_path):
        folder = fill(tmp_path / "a", 10, (140, 140))
        assert chosen(folder, Asked(minutes=1, size=128)).sizes.value == (16, 64, 128)
        with pytest.raises(ValueError, match="--size 100: give 64, 128, 256"):
            chosen(folder, Asked(minutes=1, size=100))
        with pytest.raises(ValueError, match="10 of 10 pictures are smaller than 256 px"):
            chosen(folder, Asked(minutes=1, size=256))


@pytest.mark.parametrize("num", [0, 1, 9])
def test_fewer_than_ten_pictures(tmp_path, num):
    folder = fill(tmp_path / "a", max(num, 1), (2000, 200) if num == 1 else (80, 80))
    if not num:
        (folder / "0000.png").write_text("none")
    with pytest.raises(ValueError, match=rf"^{num} pictures.*at least 10 are needed"):
        chosen(folder)


class TestChannels:
    def test_more_than_a_twentieth(self, tmp_path):
        folder = fill(tmp_path / "a", 19)
        fill(folder, 1, start=50, alpha=True)
        assert chosen(folder).channels.value == 3
        fill(folder, 1, start=51, alpha=True)
        assert chosen(folder).channels.value == 4
        assert chosen(folder, Asked(minutes=1, alpha=False)).channels.value == 3


class TestCondition:
    def test_classes(self, tmp_path):
        """Two of eight or more; a class of one is left out, and its number goes to no other."""
        fill(tmp_path / "a" / "cats", 60)
        fill(tmp_path / "a" / "bird", 1, start=60)
        fill(tmp_path / "a" / "dogs", 60, start=70)
        found = chosen(tmp_path / "a")
        assert (found.condition.value, found.source.classes, found.num_classes) == ("classes", ["cats", "dogs"], 2)
        assert {item.label for item in found.source.items} == {0, 1}
        assert len(found.source.items) == 120
        assert found.condition.reason.endswith("3 classes, 2 with 8 pictures or more; left out: bird (1)")

    def test_few_pictures_have_none(self, tmp_path):
        for k, name in enumerate(("cats", "dogs")):
            fill(tmp_path / "a" / name, 20, start=20 * k)
        found = chosen(tmp_path / "a")
        assert (found.condition.value, found.source.classes) == ("none", None)
        assert {item.label for item in found.source.items} == {None}
        assert chosen(tmp_path / "a", Asked(minutes=1, condition="classes")).num_classes == 2

    def test_text(self, tmp_path):
        folder = fill(tmp_path / "a", 100)
        caption(folder)
        found = chosen(folder)
        assert (found.condition.value, found.tokens.value, found.flip.value) == ("text", 16, False)

    def test_one_sentence_for_all_is_no_condition(self, tmp_path):
        folder = fill(tmp_path / "a", 100)
        caption(folder, "a nice picture")
        found = chosen(folder)
        assert found.condition.value == "none"
        assert {item.text for item in found.source.items} == {None}

    def test_long_and_foreign_captions_are_told(self, tmp_path):
        folder = fill(tmp_path / "a", 100)
        caption(folder, "ein Bild, größer als {k}, " + "und noch ein Wort " * 30)
        reason = chosen(folder).tokens.reason
        assert "100 are cut" in reason
        assert "100 are not plain English" in reason

    @pytest.mark.parametrize("kind", ["text", "classes", "both", "colour"])
    def test_what_the_folder_does_not_say(self, tmp_path, kind):
        with pytest.raises(ValueError, match=f"--condition {kind}: "):
            chosen(fill(tmp_path / "a", 12), Asked(minutes=1, condition=kind))


@pytest.mark.parametrize(("num", "held"), [(39, 0), (40, 8), (100, 8), (200, 10)])
def test_what_is_held_out(tmp_path, num, held):
    found = chosen(fill(tmp_path / "a", num))
    assert sum(held_out(item.key, found.val.value) for item in found.source.items) == held
    assert found.num_training == num - held


class TestFlips:
    def test_a_set_with_its_mirror(self, tmp_path):
        folder = fill(tmp_path / "a", 60)
        for k in range(60):
            ImageOps.mirror(picture(k)).save(folder / f"m{k:04d}.png")
        assert chosen(folder).flip.value is True

    def test_a_set_with_a_side(self, tmp_path):
        """All are dark on the left."""
        folder = tmp_path / "a"
        folder.mkdir()
        ramp = Image.linear_gradient("L").rotate(90).resize((80, 80))
        for k in range(100):
            Image.composite(picture(k), Image.new("RGB", (80, 80)), ramp).save(folder / f"{k}.png")
        found = chosen(folder)
        assert found.flip.value is False
        assert "mirrored pictures differ from the others" in found.flip.reason
        assert chosen(folder, Asked(minutes=1, flip=True)).flip.value is True
