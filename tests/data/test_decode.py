"""Pictures in every mode that users have, and bytes that only pretend."""

import io
import resource
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from data.decode import PACK_FORMATS, decode_image, decode_label, decode_tokens, image_size, load_image


def saved(image: Image.Image, format: str = "PNG", **options) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def pixel(content: bytes, at=(0, 0), **how) -> tuple[int, int, int]:
    image = decode_image(content, **how)
    assert image.mode == "RGB"
    return image.getpixel(at)


def close(got, want, by=3) -> bool:
    return max(abs(a - b) for a, b in zip(got, want, strict=True)) <= by


def test_grey_and_grey_with_alpha_decode_to_rgb():
    assert pixel(saved(Image.new("L", (4, 4), 77))) == (77, 77, 77)
    assert pixel(saved(Image.new("LA", (4, 4), (0, 0)))) == (255, 255, 255)
    assert pixel(saved(Image.new("1", (4, 4), 1))) == (255, 255, 255)


@pytest.mark.parametrize(("level", "want"), [(0, 0), (65535, 255), (257 * 130, 130), (300, 1)])
def test_16_bit_grey_is_scaled_not_clipped(level, want):
    image = Image.fromarray(np.full((4, 4), level, np.uint16))
    assert pixel(saved(image)) == (want, want, want)


def test_a_cmyk_jpeg_without_a_profile_decodes_to_rgb():
    assert close(pixel(saved(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95)), (254, 0, 0), by=6)


def test_transparency_is_laid_on_the_background():
    half = saved(Image.new("RGBA", (4, 4), (255, 0, 0, 128)))
    assert close(pixel(half), (255, 127, 127), by=1)
    assert close(pixel(half, background=(0, 0, 255)), (128, 0, 127), by=1)


def test_a_palette_with_a_transparent_colour_decodes_to_rgb():
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 255, 0, 255, 0, 0])
    assert pixel(saved(image)) == (255, 0, 0)
    assert pixel(saved(image, transparency=1), background=(9, 8, 7)) == (9, 8, 7)


def test_transparent_colour_of_rgb():
    content = saved(Image.new("RGB", (4, 4), (1, 2, 3)), transparency=(1, 2, 3))
    assert pixel(content) == (255, 255, 255)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_the_picture_upright(orientation):
    upright = Image.new("RGB", (32, 16), (0, 0, 255))
    upright.paste((255, 0, 0), (0, 0, 16, 8))  # red at the top left when upright
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the transpose that the camera did, by Pillow's numbers
    turned = upright if orientation == 1 else upright.transpose(Image.Transpose(undo[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    got = decode_image(saved(turned, "PNG", exif=exif))
    assert got.size == (32, 16)
    assert got.tobytes() == upright.tobytes()
    assert image_size(saved(turned, "JPEG", exif=exif)) == (16, 32)


@pytest.mark.parametrize(
    ("kind", "value"), [(2, b"up\0\0"), (7, b"\6\0\0\0"), (3, b"\0\143\0\0")], ids=["text", "bytes", "99"]
)
def test_an_orientation_that_is_none_turns_nothing(kind, value):
    num = {2: 3, 7: 1, 3: 1}[kind]
    exif = b"Exif\0\0MM\0*" + struct.pack(">IHHHI4sI", 8, 1, 0x0112, kind, num, value, 0)
    content = saved(Image.new("RGB", (8, 4)), "JPEG", exif=exif)
    assert image_size(content) == (4, 8)
    assert decode_image(content).size == (8, 4)


def swapped_profile() -> bytes:
    """A profile whose red and blue primaries are exchanged, made from the sRGB one by exchanging two tag names."""
    icc = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    icc = icc.replace("sRGB".encode("utf-16-be"), "mine".encode("utf-16-be"))
    return bytes(icc.replace(b"rXYZ", b"????").replace(b"bXYZ", b"rXYZ").replace(b"????", b"bXYZ"))


def test_colours_are_brought_from_the_embedded_profile():
    red = Image.new("RGB", (8, 8), (255, 0, 0))
    assert pixel(saved(red)) == (255, 0, 0)
    assert close(pixel(saved(red, icc_profile=swapped_profile())), (0, 0, 255))
    see_through = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    assert pixel(saved(see_through, icc_profile=swapped_profile())) == (255, 255, 255)


def test_srgb_profile_changes_nothing_and_a_broken_one_is_ignored():
    image = Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for icc in (srgb, b"nonsense" * 20):
        assert decode_image(saved(image, icc_profile=icc)).tobytes() == image.tobytes()


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_an_animation_decodes_to_its_first_frame(format):
    frames = [Image.new("RGB", (8, 8), color) for color in ((255, 0, 0), (0, 255, 0))]
    content = saved(frames[0], format, save_all=True, append_images=frames[1:])
    assert close(pixel(content, formats=PACK_FORMATS), (255, 0, 0), by=6)


def test_draft_shrinks_but_keeps_twice_the_size_and_the_look():
    grid = np.indices((512, 768)).sum(0)
    image = Image.fromarray(np.stack([grid % 256, grid // 5, 255 - grid // 6], -1).astype(np.uint8))
    content = saved(image, "JPEG", quality=95)
    small = decode_image(content, shrink_to=60)
    assert small.size == (192, 128)
    want = np.asarray(decode_image(content).resize((96, 64), Image.Resampling.BOX), float)
    got = np.asarray(small.resize((96, 64), Image.Resampling.BOX), float)
    assert np.abs(got - want).mean() < 2


def header_only_png(width: int, height: int) -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [8000, 12_000, 100_000])
def test_bombs_are_refused_before_they_are_decompressed(side):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=r"pixels|no .* picture"):
        decode_image(header_only_png(side, side))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KB


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x89PNG\r\n\x1a\n",
        b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
        saved(Image.new("RGB", (9, 9)), "TIFF"),
        saved(Image.new("RGB", (9, 9)), "BMP"),
        saved(Image.new("RGB", (9, 9)), "GIF"),
        saved(Image.effect_noise((64, 64), 60).convert("RGB"), "JPEG")[:-300],
        saved(Image.effect_noise((64, 64), 60).convert("RGB"), "PNG")[:-300],
        header_only_png(64, 64),
    ],
)
def test_anything_but_a_whole_picture_of_an_allowed_format_is_a_value_error(content):
    with pytest.raises(ValueError, match="picture"):
        decode_image(content)


def test_one_pixel_and_a_very_wide_picture_decode():
    assert decode_image(saved(Image.new("RGB", (1, 1), (4, 5, 6)))).getpixel((0, 0)) == (4, 5, 6)
    assert decode_image(saved(Image.new("RGB", (900, 3)))).size == (900, 3)


def test_load_image_names_the_file(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"a\.png: no JPEG"):
        load_image(tmp_path / "a.png")


def npy(array: np.ndarray, **how) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array(out, array, **how)
    return out.getvalue()


def test_tokens_come_back_exactly():
    tokens = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float16)
    np.testing.assert_array_equal(decode_tokens(npy(tokens), 4), tokens)


class Bomb:
    def __init__(self, sentinel):
        self.sentinel = sentinel

    def __reduce__(self):
        return open, (str(self.sentinel), "w")


def test_object_arrays_are_refused_without_being_unpickled(tmp_path):
    content = npy(np.array([[Bomb(tmp_path / "owned")]], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="float16"):
        decode_tokens(content, 1)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04",
        npy(np.zeros((2, 3), np.float16)),
        npy(np.zeros((2, 4), np.float32)),
        npy(np.zeros((0, 4), np.float16)),
        npy(np.asfortranarray(np.zeros((2, 4), np.float16))),
        npy(np.zeros((2, 4), np.float16))[:-1],
        npy(np.zeros((2, 4), np.float16)) + b"\0",
        npy(np.zeros((2, 4), np.float16)).replace(b"(2, 4)", b"(99999999999, 4)").replace(b" " * 10, b"", 1),
        b"\x93NUMPY\x01\x00\x20\x00" + b"__import__('os').abort()".ljust(32),
    ],
)
def test_wrong_token_features_are_value_errors(content):
    with pytest.raises(ValueError, match="text features"):
        decode_tokens(content, 4)


def test_labels_are_digits():
    assert decode_label(b" 12\n") == 12
    for content in (b"", b"-1", b"1.5", b"cat", b"1" * 30, b"100000", "²".encode()):
        with pytest.raises(ValueError, match="class number"):
            decode_label(content)


def with_text(size: int, how: str) -> bytes:
    """A PNG with so many bytes of text, as programs write that keep there how a picture was made."""
    info, text = PngImagePlugin.PngInfo(), "n" * size
    if how == "international":
        info.add_itxt("workflow", text, zip=True)
    else:
        info.add_text("workflow", text, zip=how == "zipped")
    return saved(Image.new("RGB", (8, 4), (1, 2, 3)), pnginfo=info)


@pytest.mark.parametrize("how", ["plain", "zipped", "international"])
def test_long_texts_in_a_png_do_not_cost_its_picture(how):
    content = with_text(3 << 20, how)
    assert image_size(content) == (4, 8)
    assert pixel(content) == (1, 2, 3)


@pytest.mark.parametrize(("size", "how"), [(17 << 20, "zipped"), (65 << 20, "plain")])
def test_texts_in_a_png_are_bounded(size, how):
    with pytest.raises(ValueError, match=r"text|TEXT"):
        decode_image(with_text(size, how))
