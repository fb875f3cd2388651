"""How many captions of data.world are drawn right: its reader is exact, so this score needs no other pictures beside it."""

from typing import Any

from cascade.judge.side import Side
from data.world.reader import MIN_SIZE
from data.world.score import score


def drawn_right(side: Side) -> dict[str, Any]:
    """(right, out of) of the captions of a side, whole and by aspect.

    Pictures without a caption are not counted. Raises ValueError for captions of no such world, or if there is none.
    """
    if side.pictures is None:
        raise ValueError(f"{side.name}: a statistics file has no pictures, so no caption is drawn; leave out --world")
    rows = [k for k, caption in enumerate(side.captions) if caption]
    if not rows:
        raise ValueError(f"{side.name}: no picture has a caption, so none is drawn right or wrong; leave out --world")
    height, width = side.pictures.shape[2:]
    if height != width or height < MIN_SIZE:
        raise ValueError(f"{side.name}: {width} x {height} px; the world is read from squares of {MIN_SIZE} px or more")
    pictures = (side.pictures[k].permute(1, 2, 0).numpy() for k in rows)
    try:
        found = score(pictures, (side.captions[k] for k in rows))
    except ValueError as error:
        raise ValueError(f"{side.name}: {error}; --world is for pictures of data.world") from None
    aspects = {f"captions drawn right, {aspect}": counts for aspect, counts in found.by_aspect.items() if counts[1]}
    return {"captions drawn right, of": (found.right, found.num), **aspects}
