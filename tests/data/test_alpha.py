"""Transparent pictures: straight in files, premultiplied as tensors, packed and read with `--alpha`."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from data.alpha import on_background, to_image, to_pixels
from data.batch import to_float, to_uint8
from data.decode import decode_image
from data.images import resize
from data.pack.packer import pack
from data.pack.settings import PackSettings
from data.read.shards import read_split
from data.resize import downsample


def glass(side: int = 32) -> Image.Image:
    """Every alpha, over every shade of red and a random blue."""
    rng = np.random.default_rng(0)
    red, alpha = np.meshgrid(np.linspace(0, 255, side), np.linspace(0, 255, side))
    pixels = np.stack([red, np.zeros_like(red), rng.integers(0, 256, red.shape), alpha], -1)
    return Image.fromarray(pixels.astype(np.uint8))


def bytes_of(image: Image.Image, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, **options)
    return out.getvalue()


def test_premultiplied_to_straight_and_back_is_exact():
    alpha = torch.arange(256).repeat_interleave(256)
    colour = torch.arange(256).repeat(256)
    possible = colour <= alpha
    pixels = torch.stack([colour, colour // 2, torch.zeros_like(colour), alpha]).to(torch.uint8)[:, possible][:, None]
    assert torch.equal(torch.tensor(to_pixels(to_image(pixels))), pixels)


def test_opaque_pictures_keep_their_colours():
    rgb = np.random.default_rng(1).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    pixels = to_pixels(Image.fromarray(rgb).convert("RGBA"))
    assert (pixels[3] == 255).all()
    assert np.array_equal(pixels[:3], rgb.transpose(2, 0, 1))


def test_colour_above_its_alpha_is_cut_to_it():
    assert np.array_equal(
        to_image(torch.tensor([200, 50, 0, 100], dtype=torch.uint8)[:, None, None]), [[[255, 128, 0, 100]]]
    )


@pytest.mark.parametrize("colour", [(255, 255, 255), (0, 0, 0), (10, 200, 77)])
def test_on_a_background_it_is_what_pillow_composites(colour):
    image = glass()
    wanted = Image.alpha_composite(Image.new("RGBA", image.size, (*colour, 255)), image).convert("RGB")
    seen = on_background(torch.tensor(to_pixels(image)), colour)
    assert np.abs(seen.permute(1, 2, 0).int().numpy() - np.asarray(wanted, int)).max() <= 1


def test_resizing_does_not_mix_in_the_colour_of_what_is_not_there():
    """Half red, half nothing that is stored as green: the edge stays red, only its alpha falls."""
    pixels = np.zeros((32, 32, 4), np.uint8)
    pixels[:, :16], pixels[:, 16:] = (255, 0, 0, 255), (0, 255, 0, 0)
    small = np.asarray(resize(Image.fromarray(pixels), (8, 8)))
    assert (small[..., 1] == 0).all()
    assert (small[..., 0][small[..., 3] > 0] == 255).all()
    assert small[0, 0, 3] == 255
    assert small[0, 7, 3] == 0


def test_it_is_the_downsample_of_premultiplied_pixels():
    image = glass(64)
    wanted = to_uint8(downsample(to_float(torch.tensor(to_pixels(image))[None]), (16, 16)))[0]
    wanted[:3] = wanted[:3].minimum(wanted[3])
    assert np.abs(to_pixels(resize(image, (16, 16))).astype(int) - wanted.int().numpy()).max() == 0


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "LA", "RGBA", "CMYK"])
def test_pictures_of_every_mode_are_read_with_four_channels(mode):
    image = glass().convert("RGB" if mode in ("P", "CMYK") else mode).convert(mode)
    kind = "TIFF" if mode == "CMYK" else "PNG"
    got = decode_image(bytes_of(image, format=kind), alpha=True, formats=(kind,))
    assert got.mode == "RGBA"
    alpha = np.asarray(got)[..., 3]
    assert (alpha == 255).all() if "A" not in mode else np.array_equal(alpha, np.asarray(glass())[..., 3])


@pytest.mark.parametrize("options", [{}, {"format": "webp", "quality": 100}])
def test_packed_and_read_it_is_the_same_pixels(tmp_path, options):
    (tmp_path / "pictures").mkdir()
    for k in range(4):
        glass().rotate(90 * k).save(tmp_path / "pictures" / f"{k}.png")
    index = pack(tmp_path / "pictures", tmp_path / "shards", PackSettings(size=32, alpha=True, **options), workers=0)
    assert index.channels == 4
    batch = next(read_split(str(tmp_path / "shards"), "train", batch=4, resolution=32))
    for key, image in zip(batch.keys, batch.image, strict=True):
        assert np.array_equal(image, to_pixels(glass().rotate(90 * int(key)))), key


def test_padding_is_transparent(tmp_path):
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (32, 16), (9, 9, 9)).save(tmp_path / "pictures" / "wide.png")
    settings = PackSettings(size=32, alpha=True, resize="pad")
    pack(tmp_path / "pictures", tmp_path / "shards", settings, workers=0)
    image = next(read_split(str(tmp_path / "shards"), "train", batch=1, resolution=32)).image[0]
    assert (image[:, :8] == 0).all()
    assert (image[3, 8:24] == 255).all()


def test_jpg_holds_no_transparency(tmp_path):
    with pytest.raises(
        ValueError, match="--format jpg holds no transparency, --alpha keeps it; give --format png or webp"
    ):
        PackSettings(alpha=True, format="jpg").check()
