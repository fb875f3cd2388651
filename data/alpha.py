"""Transparency. As tensors, pictures of four channels are *premultiplied*: colour times alpha, then alpha, so that pictures may be
resized, blended and averaged channel by channel (Porter and Duff 1984). As files and Pillow images they are straight RGBA.
"""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from data.decode import WHITE, Color


def to_pixels(image: Image.Image) -> np.ndarray:
    """Convert a Pillow image, grey, RGB or straight RGBA, to uint8 (c, h, w): one, three, or four channels and premultiplied."""
    pixels = np.atleast_3d(np.asarray(image))
    if image.mode == "RGBA":
        alpha = pixels[..., 3:].astype(np.uint16)
        pixels = np.concatenate([(pixels[..., :3] * alpha + 127) // 255, alpha], -1).astype(np.uint8)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def to_image(pixels: Tensor) -> Image.Image:
    """Convert uint8 (c, h, w) with one, three or four channels to a Pillow image: grey, RGB or straight RGBA.

    The inverse of `to_pixels`, to the bit. Colour above its alpha, which only a model paints, is cut to it.
    """
    array = pixels.permute(1, 2, 0).numpy()
    if array.shape[-1] != 4:
        return Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)
    alpha = array[..., 3:].astype(np.uint16)
    colour = (np.minimum(array[..., :3], alpha) * np.uint16(255) + alpha // 2) // np.maximum(alpha, 1)
    return Image.fromarray(np.concatenate([colour, alpha], -1).astype(np.uint8))


def on_background(pictures: Tensor, background: Color = WHITE) -> Tensor:
    """Lay uint8 (..., 4, h, w), premultiplied, on a colour: uint8 (..., 3, h, w). Pictures of other channels stay as they are."""
    if pictures.shape[-3] != 4:
        return pictures
    colour = torch.tensor(background, dtype=torch.int32, device=pictures.device).reshape(3, 1, 1)
    *_, alpha = pictures.int().split((3, 1), -3)
    seen = pictures[..., :3, :, :].int() + (colour * (255 - alpha) + 127) // 255
    return seen.clamp(max=255).to(torch.uint8)
