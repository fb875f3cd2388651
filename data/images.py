"""Crop and resize one Pillow image, exactly as tensors are."""

from PIL import Image


def center_crop(image: Image.Image) -> Image.Image:
    """The largest central square."""
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return image if width == height else image.crop((left, top, left + side, top + side))


def resize(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Resize one 8-bit picture, RGB or straight RGBA, to (height, width) by THE downsample, or by THE upsample if a side grows."""
    import torch

    from data.alpha import to_image, to_pixels
    from data.batch import to_float, to_uint8
    from data.resize import downsample, upsample

    pixels = to_float(torch.from_numpy(to_pixels(image))[None])
    method = upsample if size[0] > image.height or size[1] > image.width else downsample
    return to_image(to_uint8(method(pixels, size))[0])
