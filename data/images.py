"""Crop and resize one Pillow image, exactly as tensors are."""

import numpy as np
from PIL import Image


def center_crop(image: Image.Image) -> Image.Image:
    """The largest central square."""
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return image if width == height else image.crop((left, top, left + side, top + side))


def resize(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Resize one 8-bit picture to (height, width) by THE downsample, or by THE upsample if a side grows."""
    import torch

    from data.batch import to_float, to_uint8
    from data.resize import downsample, upsample

    pixels = to_float(torch.from_numpy(np.array(image)).permute(2, 0, 1)[None])
    method = upsample if size[0] > image.height or size[1] > image.width else downsample
    return Image.fromarray(to_uint8(method(pixels, size))[0].permute(1, 2, 0).numpy())
