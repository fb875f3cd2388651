"""The reader is right on every true picture, and finds each kind of mistake in a wrong one."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from data import shapes
from data.shapes import COLORS
from data.world.captions import Caption, parse
from data.world.kinds import Object
from data.world.reader import read
from data.world.scenes import Scene, draw, scene
from data.world.score import ASPECTS, Score, compare, mistakes, score, shows


def blurred(pixels: np.ndarray, sigma: float) -> np.ndarray:
    weights = np.exp(-(np.arange(-3, 4) ** 2) / (2 * sigma**2))
    for axis in (0, 1):
        wide = np.pad(pixels, [(3, 3) if a == axis else (0, 0) for a in range(3)], mode="edge")
        parts = [
            w * np.take(wide, range(k, k + pixels.shape[axis]), axis) for k, w in enumerate(weights / weights.sum())
        ]
        pixels = sum(parts)
    return pixels


def picture(*objects: tuple[str, str, float, float, float], size: int = 64) -> Image.Image:
    things = tuple(Object(kind=k, color=c, x=x, y=y, radius=r) for k, c, x, y, r in objects)
    return draw(Scene(caption=Caption(groups=()), objects=things, background=240), size)


@pytest.mark.parametrize("size", [16, 64, 256])
def test_every_true_picture_is_read_right(size):
    for index in range(200):
        what = scene(index, size)
        seen = read(draw(what, size))
        assert compare(seen, what.caption) == frozenset(), (what, seen)
        for each in what.objects:
            near = min(seen, key=lambda s: abs(s.x - each.x) + abs(s.y - each.y) + abs(s.radius - each.radius))
            assert (near.kind, near.color) == (each.kind, each.color)
            assert np.allclose((near.x, near.y, near.radius), (each.x, each.y, each.radius), atol=0.003)


@pytest.mark.parametrize("size", [17, 24, 40, 100, 200])
def test_other_sizes(size):
    for index in range(10):
        what = scene(index, size)
        assert shows(draw(what, size), what.caption.text)


def test_blur_and_noise():
    rng = np.random.default_rng(0)
    wrong = 0
    for index in range(200):
        what = scene(index, 3)
        pixels = blurred(np.asarray(draw(what, 64), float), sigma=0.5) + rng.normal(0, 0.03 * 255, (64, 64, 3))
        wrong += not shows(np.clip(np.rint(pixels), 0, 255).astype(np.uint8), what.caption.text)
    assert wrong <= 2


@pytest.mark.parametrize("size", [16, 64])
def test_single_shapes_are_read_too(size):
    for index in range(60):
        what = shapes.shape(index)
        assert mistakes(shapes.draw(what, size), what.caption) == frozenset(), what


STAR, RING = ("star", "red", 0.5, 0.22, 0.16), ("ring", "blue", 0.5, 0.72, 0.18)


@pytest.mark.parametrize(
    ("objects", "found"),
    [
        ([STAR, RING], ""),
        ([("cross", *STAR[1:]), RING], "kind"),
        ([STAR, ("ring", "green", *RING[2:])], "color"),
        ([("star", "blue", *STAR[2:]), ("ring", "red", *RING[2:])], "color"),
        ([(*STAR[:2], *RING[2:]), (*RING[:2], *STAR[2:])], "relation"),
        ([STAR, RING, ("star", "red", 0.15, 0.2, 0.14)], "count"),
        ([STAR], "count relation"),
        ([("cross", "red", *RING[2:]), ("ring", "blue", *STAR[2:])], "kind relation"),
        ([STAR, RING, ("circle", "pink", 0.15, 0.5, 0.12)], "count"),
        ([], "kind color relation count"),
    ],
)
@pytest.mark.parametrize("size", [32, 64])
def test_mistakes(objects, found, size):
    assert mistakes(picture(*objects, size=size), "a red star above a blue ring") == set(found.split())


def test_mistakes_in_counts_and_lists():
    three = [("star", "red", x, y, 0.14) for x, y in ((0.2, 0.25), (0.7, 0.3), (0.4, 0.75))]
    assert shows(picture(*three), "three red stars")
    assert mistakes(picture(*three), "two red stars") == {"count"}
    assert mistakes(picture(*three[:2], ("star", "green", 0.4, 0.75, 0.14)), "three red stars") == {"color"}
    assert mistakes(picture(*three), "two red stars and a red ring") == {"kind"}
    assert mistakes(picture(STAR, RING), "a blue ring and a red star") == frozenset()
    assert mistakes(picture(STAR, RING), "a red star inside a blue ring") == {"relation"}


def test_a_random_other_caption_is_hardly_ever_right():
    scenes = [scene(index, 9) for index in range(60)]
    others = [shows(draw(what, 32), scenes[k - 1].caption.text) for k, what in enumerate(scenes)]
    assert sum(others) <= 1


def test_what_is_no_kind_is_unclear():
    smear = np.full((64, 64, 3), 240, np.uint8)
    smear[20:26, 4:60] = COLORS["red"]
    (seen,) = read(smear)
    assert (seen.kind, seen.color) == ("unclear", "red")
    pale = np.asarray(picture(("square", "red", 0.5, 0.5, 0.3)), float) * 0.4 + 240 * 0.6
    assert all(each.kind == "unclear" for each in read(pale.astype(np.uint8)))


def test_any_picture_is_read():
    rng = np.random.default_rng(1)
    for level in (0, 128, 255):
        assert read(np.full((32, 32, 3), level, np.uint8)) == ()
    for _ in range(5):
        assert len(read(rng.integers(0, 256, (48, 48, 3), dtype=np.uint8))) <= 12
    for color in COLORS.values():
        read(Image.new("RGB", (16, 16), color))
    smooth = np.linspace(0, 255, 64)[None, :, None] * np.linspace(0, 1, 64)[:, None, None] * np.ones(3)
    read(smooth.astype(np.uint8))


@pytest.mark.parametrize(
    "wrong", [np.zeros((8, 8, 3), np.uint8), np.zeros((32, 16, 3), np.uint8), np.zeros((32, 32, 3))]
)
def test_what_is_no_such_picture_is_refused(wrong):
    with pytest.raises(ValueError, match="a picture must be"):
        read(wrong)


def test_score():
    pictures = [picture(STAR, RING), picture(STAR, RING), picture(STAR), picture(RING)]
    captions = ["a red star above a blue ring", "a red star left of a blue ring", "a red star", "two green rings"]
    got = score(pictures, captions)
    assert (got.num, got.right, got.fraction, got.wrong) == (4, 2, 0.5, (1, 3))
    assert got.by_aspect == {"kind": (4, 4), "color": (3, 4), "relation": (1, 2), "count": (3, 4)}
    assert str(got) == "2 of 4 captions drawn right; kind 4 of 4, color 3 of 4, relation 1 of 2, count 3 of 4".replace(
        ", ", "; "
    )
    assert str(replace(got, num=1000, right=940, by_aspect={})) == "940 of 1,000 captions drawn right"
    assert Score().fraction == 0
    with pytest.raises(ValueError, match="zip"):
        score(pictures, captions[:3])


def test_equal_groups_can_be_related():
    upper, lower = (Object(kind="star", color="red", x=0.5, y=y, radius=0.15) for y in (0.2, 0.8))
    caption = parse("a red star above a red star")
    assert compare((lower, upper), caption) == frozenset()
    assert set(ASPECTS) >= compare((lower,), caption) == {"count", "relation"}
