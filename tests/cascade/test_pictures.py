"""Pictures to files and back, and a user's own picture of whatever kind to what a super-resolution stage takes."""

import io
import time

import numpy as np
import pytest
import torch
from PIL import Image

from cascade.output.pictures import METADATA_KEY, columns_for, grid, read_metadata, save_png, user_picture
from data.batch import to_float, to_uint8
from data.resize import downsample
from tests.data import bombs

from .chains import levels_apart


def ramp(h: int, w: int) -> np.ndarray:
    """(h, w, 3) uint8 that differs along both sides and between the channels."""
    rows, cols = np.mgrid[0:h, 0:w]
    return np.stack(
        [rows * 255 // max(h - 1, 1), cols * 255 // max(w - 1, 1), (rows + cols) * 255 // (h + w)], -1
    ).astype("uint8")


def as_tensor(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None]


@pytest.fixture
def put(tmp_path):
    """Writes a picture file and gives its path."""

    def write(image: Image.Image, name: str = "low.png", **save):
        image.save(tmp_path / name, **save)
        return tmp_path / name

    return write


# PNG


@pytest.mark.parametrize("channels", [1, 3])
def test_a_png_holds_the_picture_and_what_made_it(tmp_path, channels):
    image = torch.arange(channels * 6, dtype=torch.uint8).reshape(channels, 2, 3) * 11
    said = {
        "prompts": ["ein grüner Apfel \N{RED APPLE}", 'quote " and \n line'],
        "seed": 2**63 - 1,
        "stages": {"a": [0.1]},
    }
    save_png(image, tmp_path / "a.png", said)
    assert read_metadata(tmp_path / "a.png") == said
    stored = np.atleast_3d(np.array(Image.open(tmp_path / "a.png")))
    assert torch.equal(torch.from_numpy(stored).permute(2, 0, 1), image)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_a_png_without_metadata_says_so(put):
    path = put(Image.new("RGB", (4, 4)))
    with pytest.raises(ValueError, match=rf"low.png: no {METADATA_KEY!r} text in it"):
        read_metadata(path)


@pytest.mark.parametrize("fault", [KeyboardInterrupt, OSError])
def test_an_interrupt_while_writing_leaves_no_half_file(tmp_path, monkeypatch, fault):
    save_png(torch.zeros(3, 4, 4, dtype=torch.uint8), tmp_path / "a.png", {"seed": 1})
    before = (tmp_path / "a.png").read_bytes()

    def half(self, path, **options):
        path.write_bytes(before[:20])
        raise fault

    monkeypatch.setattr(Image.Image, "save", half)
    for name in ("a.png", "b.png"):
        with pytest.raises(fault):
            save_png(torch.ones(3, 4, 4, dtype=torch.uint8), tmp_path / name, {"seed": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert (tmp_path / "a.png").read_bytes() == before


@pytest.mark.parametrize(
    ("num", "places", "columns"), [(1, 1, 1), (2, 1, 2), (16, 1, 4), (5, 1, 3), (12, 3, 4), (3, 3, 1)]
)
def test_columns_of_a_grid(num, places, columns):
    assert columns_for(num, places) == columns


def test_a_grid_shows_pictures_row_by_row():
    images = torch.arange(6, dtype=torch.uint8)[:, None, None, None].expand(6, 3, 8, 8) * 40
    sheet = grid(images, 3)
    assert sheet.shape == (3, 22, 32)
    assert sheet[0, [6, 6, 6, 16, 16, 16], [6, 16, 26, 6, 16, 26]].tolist() == [0, 40, 80, 120, 160, 200]


# a user's picture


@pytest.mark.parametrize("side", [16, 17, 40, 64])
def test_the_resize_is_the_one_of_training(put, side):
    pixels = ramp(side, side)
    got = user_picture(put(Image.fromarray(pixels)), 16, 4)
    assert torch.equal(got, to_uint8(downsample(to_float(as_tensor(pixels)), (16, 16))))


def saved(mode: str) -> tuple[Image.Image, dict, Image.Image]:
    """A picture in some mode, how to save it, and the RGB picture that it is."""
    rgb = Image.fromarray(ramp(32, 32))
    grey = rgb.convert("L")
    if mode == "RGBA":
        image = rgb.copy()
        image.putalpha(Image.new("L", rgb.size, 128))
        white = Image.new("RGB", rgb.size, (255, 255, 255))
        return image, {}, Image.composite(rgb, white, Image.new("L", rgb.size, 128))
    if mode == "I;16":
        return Image.fromarray(np.asarray(grey).astype("uint16") * 257), {}, grey.convert("RGB")
    if mode == "CMYK":
        cmyk = rgb.convert("CMYK")
        return cmyk, {"name": "low.jpg", "quality": 100, "subsampling": 0}, cmyk.convert("RGB")
    if mode == "P":
        return rgb.quantize(256), {}, rgb.quantize(256).convert("RGB")
    if mode == "1":
        return grey.convert("1"), {}, grey.convert("1").convert("RGB")
    if mode == "LA":
        return grey.convert("LA"), {}, grey.convert("RGB")
    return {"L": grey, "RGB": rgb}[mode], {}, {"L": grey, "RGB": rgb}[mode].convert("RGB")


@pytest.mark.parametrize("mode", ["L", "LA", "1", "P", "RGB", "RGBA", "I;16", "CMYK"])
def test_any_mode_becomes_rgb(put, mode):
    image, save, rgb = saved(mode)
    got = user_picture(put(image, **save), 16, 4)
    expected = to_uint8(downsample(to_float(as_tensor(np.asarray(rgb))), (16, 16)))
    assert got.shape == (1, 3, 16, 16)
    assert levels_apart(got, expected) <= (8 if mode == "CMYK" else 1)  # JPEG is lossy


def test_exif_turns_it_upright(put):
    image = Image.fromarray(ramp(24, 48))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: shown upright it is 24 wide and 48 high
    turned = user_picture(put(image, "turned.png", exif=exif), 24, 4)
    upright = user_picture(put(image.transpose(Image.Transpose.ROTATE_270), "upright.png"), 24, 4)
    assert turned.shape == (1, 3, 48, 24)
    assert torch.equal(turned, upright)


@pytest.mark.parametrize("multiple", [1, 4, 8])
def test_any_width_from_the_smallest_on_is_accepted(put, multiple):
    """The shorter side is the stage's, the longer one the largest multiple the picture fills; nothing is enlarged."""
    for width in range(16, 41):
        got = user_picture(put(Image.fromarray(ramp(16, width))), 16, multiple)
        assert got.shape == (1, 3, 16, width // multiple * multiple)
        turned = user_picture(put(Image.fromarray(ramp(width, 16))), 16, multiple)
        assert turned.shape == (1, 3, width // multiple * multiple, 16)


def test_a_wide_picture_keeps_its_shape_and_its_middle(put):
    pixels = ramp(64, 150)
    got = user_picture(put(Image.fromarray(pixels)), 16, 4)
    assert got.shape == (1, 3, 16, 36)
    middle = as_tensor(pixels)[..., 3 : 3 + 144]
    assert torch.equal(got, to_uint8(downsample(to_float(middle), (16, 36))))


@pytest.mark.parametrize("size", [(1, 1), (15, 400), (400, 15)])
def test_a_picture_that_is_too_small_is_refused(put, size):
    path = put(Image.new("RGB", size))
    with pytest.raises(ValueError, match=rf"{size[0]}x{size[1]} px is too small, the stage takes 16 px; use a larger"):
        user_picture(path, 16, 4)


def png_of(size: tuple[int, int]) -> bytes:
    """The header of a PNG that claims a size."""
    out = io.BytesIO()
    Image.new("RGB", (1, 1)).save(out, "PNG")
    content = bytearray(out.getvalue())
    content[16:24] = size[0].to_bytes(4, "big") + size[1].to_bytes(4, "big")
    return bytes(content)


@pytest.mark.parametrize(
    "content",
    [b"", b"no picture", b"\x89PNG\r\n\x1a\n", png_of((100_000, 100_000)), b"<svg/>", b"%!PS-Adobe-3.0 EPSF-3.0\n"],
)
def test_not_a_picture(tmp_path, content):
    path = tmp_path / "low.png"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"^[^\n]*low.png: [^\n]*$"):
        user_picture(path, 16, 4)


def test_no_such_picture(tmp_path):
    with pytest.raises(OSError, match=r"No such file or directory: .*low.png"):
        user_picture(tmp_path / "low.png", 16, 4)


def test_a_head_of_a_png_that_asks_for_much_work_is_refused(tmp_path):
    """Before Pillow reads it: many chunks before the pixels; behind them, where nothing is looked for, there may be."""
    path = tmp_path / "made.png"
    save_png(torch.zeros(3, 8, 8, dtype=torch.uint8), path, {"seed": 7})
    content, empty = path.read_bytes(), bombs.chunk(b"teSt", b"") * 200_000
    at, end = content.index(b"IDAT") - 4, content.index(b"IEND") - 4
    path.write_bytes(content[:end] + empty + content[end:])
    assert read_metadata(path) == {"seed": 7}
    path.write_bytes(content[:at] + empty + content[at:])
    began = time.process_time()
    with pytest.raises(ValueError, match=f"^{path}: more chunks than are decoded: over 20,000"):
        read_metadata(path)
    assert time.process_time() - began < 0.5
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=f"^{path}: no PNG that can be read .it is empty"):
        read_metadata(path)
