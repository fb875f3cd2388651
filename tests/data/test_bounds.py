"""A small file that asks for much work is refused before the work: everywhere that pictures are read, in one line."""

import io
import time

import pytest
from PIL import Image

from cascade.output.given import given_files
from data.bounds import check_bounds
from data.decode import FORMATS, PACK_FORMATS, decode_image, image_size, load_image
from data.pack.packer import pack
from data.pack.settings import PackSettings
from tests.data import bombs

BOMBS = bombs.refused()
LEGITIMATE = bombs.legitimate()
PACKED = bombs.refused_when_packed()
CPU_S = 0.5  # of the processor, for a refusal


@pytest.mark.parametrize("read", [decode_image, image_size], ids=["decoded", "measured"])
@pytest.mark.parametrize("name", BOMBS)
def test_a_picture_that_needs_much_work_is_refused_before_it_is_decoded(name, read):
    content, why = BOMBS[name]
    began = time.process_time()
    with pytest.raises(ValueError, match="more") as error:
        read(content, formats=FORMATS)
    assert time.process_time() - began < CPU_S
    assert str(error.value).startswith(why)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", PACKED)
def test_a_picture_that_needs_much_work_is_refused_before_it_is_packed(name):
    content, why = PACKED[name]
    for read in (decode_image, image_size):
        began = time.process_time()
        with pytest.raises(ValueError, match="more") as error:
            read(content, formats=PACK_FORMATS)
        assert time.process_time() - began < CPU_S
        assert str(error.value).startswith(why)


@pytest.mark.parametrize("name", LEGITIMATE)
def test_pictures_that_only_look_like_bombs_are_read(name):
    content = LEGITIMATE[name]
    image = decode_image(content, formats=PACK_FORMATS)
    assert image_size(content) == (image.height, image.width)
    with Image.open(io.BytesIO(content)) as plain:
        assert image.size == plain.size


def test_damaged_exif_is_left_to_the_decoder():
    """Tags that claim more than there is, places that are none, a directory that is its own sub-directory."""
    rows = [(0x8769, 4, 1, 8), (0x8825, 4, 1, 4_000_000_000), (0x927C, 7, 4_000_000_000, 60), (0x9999, 99, 5, 5)]
    for exif in (bombs.tags(rows, bytes(2000)), bombs.tags(rows)[:30], b"II*\0", b"MM", b""):
        check_bounds(bombs.jpeg(bombs.segment(0xE1, b"Exif\0\0" + exif)))


def test_packing_skips_a_picture_that_needs_much_work(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for name in ("a.png", "c.jpg"):
        (source / name).write_bytes(bombs.saved(bombs.photo(), "JPEG" if name == "c.jpg" else "PNG"))
    (source / "b.jpg").write_bytes(BOMBS["10,000 scans"][0])
    (source / "d.gif").write_bytes(PACKED["comments of a GIF"][0])
    began = time.process_time()
    index = pack(source, tmp_path / "out", PackSettings(size=64, max_bad=0.5), workers=0)
    assert time.process_time() - began < 5
    assert index.num_images == {"train": 2}
    assert index.skipped["more scans than are decoded"].names == [
        "b.jpg (over 100 of 2000 x 1500 px, at most 100; save it as a PNG, or as a JPEG that is not progressive)"
    ]
    assert index.skipped["more blocks before the first frame than are read"].num == 1


def test_a_users_own_picture_is_refused_by_name(tmp_path):
    """As `sample.py --image` reads it."""
    path = tmp_path / "photo.jpg"
    path.write_bytes(BOMBS["10,000 scans"][0])
    for read in (load_image, lambda path: given_files([path])):
        with pytest.raises(ValueError, match=r"photo\.jpg: more scans than are decoded: over 100 of 2000 x 1500 px, "):
            read(path)


def test_the_size_of_a_png_is_known_without_its_pixels():
    content = bombs.saved(bombs.photo(), dpi=(72, 72))
    assert image_size(content[: content.index(b"IDAT") + 20]) == (192, 256)


def test_a_profile_with_thousands_of_stages_costs_little_time():
    """They are optional: what the profile says otherwise holds."""
    content = bombs.saved(Image.new("RGB", (8, 8), (200, 100, 30)), icc_profile=bombs.slow_profile(5000))
    began = time.process_time()
    assert decode_image(content).getpixel((0, 0)) == (200, 100, 30)
    assert time.process_time() - began < CPU_S
