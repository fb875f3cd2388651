"""Checks of pictures before they are compared: uint8 (b, c, h, w)."""

from torch import Tensor, uint8

BATCH = 64  # pictures that a measure takes at once
SIDES = ("real", "generated")


def check_pictures(pictures: Tensor, side: str) -> None:
    """Raise ValueError, beginning with `side`, for anything but uint8 (b, c, h, w) with b >= 1."""
    if pictures.ndim != 4 or pictures.dtype != uint8 or not pictures.numel():
        shape, dtype = tuple(pictures.shape), str(pictures.dtype).removeprefix("torch.")
        raise ValueError(f"{side}: pictures are {dtype} {shape}; uint8 (b, c, h, w) with b >= 1 is needed")


def check_channels(real: Tensor, generated: Tensor, names: tuple[str, str] = SIDES) -> None:
    """Raise ValueError unless both are pictures with the same channels; `names` are those of the message."""
    check_pictures(real, names[0])
    check_pictures(generated, names[1])
    if real.shape[1] != generated.shape[1]:
        raise ValueError(
            f"channels: {names[0]} have {real.shape[1]}, {names[1]} {generated.shape[1]}; "
            "they must be equal: put both on one background, or convert one side"
        )


def check_sizes(real: Tensor, generated: Tensor, names: tuple[str, str] = SIDES) -> None:
    """Raise ValueError unless both are pictures with the same channels, height and width."""
    check_channels(real, generated, names)
    if real.shape[2:] != generated.shape[2:]:
        sizes = " and ".join(f"{each.shape[3]} x {each.shape[2]}" for each in (real, generated))
        raise ValueError(f"sizes: {names[0]} and {names[1]} are {sizes} px; they must be equal: resize one side")


def check_pairs(pictures: Tensor, references: Tensor) -> None:
    """Raise ValueError unless both are pictures of one shape, compared one to one."""
    check_sizes(references, pictures, ("references", "pictures"))
    if len(pictures) != len(references):
        raise ValueError(
            f"pictures: {len(pictures):,} for {len(references):,} references; they are compared one to one, "
            "so as many are needed"
        )
