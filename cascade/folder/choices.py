"""What follows from a folder's pictures for the data: sizes, channels, condition, split, flips; each with its reason.

A user's own choice takes the place of a rule and is the reason.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch.nn.functional import adaptive_avg_pool2d

from data.alpha import on_background
from data.index.items import Item, Source
from data.pack.layout import held_out

from .survey import Seen, Survey

FEWEST = 10  # pictures
FEW = 100  # below, no condition
UNTOLD = 40  # below, nothing is held out
TOPS = (64, 128, 256)  # px
BASE, MIDDLE = 16, 64
CLASS = 8  # pictures of a class
TOKENS = (16, 32, 64)
GREYS = (2, 4, 8)  # px, to compare pictures with their mirror
CONDITIONS = ("none", "classes", "text", "both")
OWN = "as asked for"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a user chose; None or "" leaves it to the rules. minutes: of training and what follows it, packing not counted."""

    minutes: float
    size: int = 0
    upscale: bool = False
    alpha: bool | None = None
    condition: str = ""
    val: float | None = None
    flip: bool | None = None
    tokens: int = 0
    init: str = ""
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Choice:
    """A value and why it is so."""

    value: Any
    reason: str


@dataclass(frozen=True, kw_only=True)
class Choices:
    """The choices about the data. source: what is packed, after the rules."""

    sizes: Choice
    upscale: bool
    channels: Choice
    condition: Choice
    tokens: Choice
    val: Choice
    flip: Choice
    source: Source
    pictures: tuple[Seen, ...] = field(repr=False)

    @property
    def num_classes(self) -> int:
        """Classes in the condition; 0 without."""
        return len(self.source.classes or ())

    @property
    def has_text(self) -> bool:
        """Whether captions are part of the condition."""
        return self.condition.value in ("text", "both")

    @property
    def num_training(self) -> int:
        """Pictures that are trained on."""
        return sum(item.split == "train" and not held_out(item.key, self.val.value) for item in self.source.items)


def choose(found: Survey, asked: Asked, lengths: Callable[[list[str]], list[int]]) -> Choices:
    """Apply the rules. lengths: counts the tokens of captions. Raises ValueError where nothing can be trained."""
    if len(found.kept) < FEWEST:
        dropped = sum(map(len, found.dropped.values()))
        raise ValueError(
            f"{len(found.kept)} pictures{f' ({dropped:,} dropped)' if dropped else ''}: at least {FEWEST} are needed; add some, or "
            "crops of large ones"
        )
    sizes = _sizes(found, asked)
    large_enough = [seen for seen in found.kept if asked.upscale or seen.short >= MIDDLE]
    condition = _condition(found, asked)
    kept, classes = _of_classes(large_enough, found, condition.value)
    if len(kept) < FEWEST:
        raise ValueError(
            f"{len(kept)} pictures are left, at least {FEWEST} are needed; add some, or give --condition none"
        )
    captioned = condition.value in ("text", "both")
    items = [_stripped(seen.item, captioned, classes is not None) for seen in kept]
    tokens = _tokens([item.text or "" for item in items], asked, lengths) if captioned else Choice(0, "no captions")
    return Choices(
        sizes=sizes,
        upscale=asked.upscale,
        channels=_channels(kept, asked),
        condition=condition,
        tokens=tokens,
        val=_val(items, asked),
        flip=_flip(kept, condition.value, asked),
        source=replace(found.source, items=items, classes=classes),
        pictures=tuple(kept),
    )


def _sizes(found: Survey, asked: Asked) -> Choice:
    """The sides of the stages, px."""
    shorts = sorted(seen.short for seen in found.kept)
    tenth = shorts[len(shorts) // 10]
    fitting = [top for top in TOPS if top <= tenth]
    if asked.size and asked.size not in TOPS:
        raise ValueError(f"--size {asked.size}: give {', '.join(map(str, TOPS))}")
    enough = sum(short >= (asked.size or MIDDLE) for short in shorts) >= max(FEWEST, 0.9 * len(shorts))
    if not enough and not asked.upscale and (asked.size or not fitting):
        wanted = asked.size or MIDDLE
        small = sum(short < wanted for short in shorts)
        raise ValueError(
            f"{small:,} of {len(shorts):,} pictures are smaller than {wanted} px (the median short side is "
            f"{shorts[len(shorts) // 2]}); give larger ones, {'a smaller --size, ' if wanted > MIDDLE else ''}or --upscale to "
            "enlarge them"
        )
    top = asked.size or (fitting[-1] if fitting else MIDDLE)
    sides = (BASE, MIDDLE) if top == MIDDLE else (BASE, MIDDLE, top)
    reason = OWN if asked.size else f"nine tenths of the pictures have {tenth} px or more on their short side"
    if not asked.size and asked.minutes < 3 and top > MIDDLE:
        sides, reason = (BASE, MIDDLE), f"below 3 minutes the stage of {top} px is left out"
    cropped = [1 - seen.short / max(seen.size) for seen in found.kept]
    away = sorted(cropped)[len(cropped) // 2]
    most = sum(share > 0.5 for share in cropped)
    told = f"; the central square is kept: half of the pictures lose {100 * away:.0f} % or more"
    return Choice(
        sides, reason + (told + (f", {most:,} of them over half" if most else "") if max(cropped) > 0.02 else "")
    )


def _channels(kept: list[Seen], asked: Asked) -> Choice:
    transparent = sum(seen.transparent for seen in kept)
    reason = f"{transparent:,} of {len(kept):,} pictures have transparent parts"
    if asked.alpha is not None:
        return Choice(4 if asked.alpha else 3, OWN)
    return Choice(4, reason) if transparent > 0.05 * len(kept) else Choice(3, reason)


def _condition(found: Survey, asked: Asked) -> Choice:
    """What the pictures are told by: none, classes, text, or both."""
    num = len(found.kept)
    given = [caption for caption in found.captions if caption]
    distinct, large = len(set(given)), {name: n for name, n in found.classes.items() if n >= CLASS}
    text = len(given) >= 0.8 * num and distinct >= 20
    classes = len(large) >= 2 and sum(large.values()) >= 0.8 * num
    told = f"{len(given):,} of {num:,} have captions, {distinct:,} of them distinct; {len(found.classes)} classes"
    told += f", {len(large)} with {CLASS} pictures or more" if found.classes else ""
    if asked.condition:
        if asked.condition not in CONDITIONS:
            raise ValueError(f"--condition {asked.condition}: give {', '.join(CONDITIONS)}")
        if (asked.condition in ("text", "both") and not given) or (
            asked.condition in ("classes", "both") and len(large) < 2
        ):
            raise ValueError(f"--condition {asked.condition}: the folder does not say so ({told})")
        return Choice(asked.condition, OWN)
    if num < FEW:
        return Choice("none", f"{num} pictures, and below {FEW} a condition is learned by heart")
    kind = "both" if text and classes else "text" if text else "classes" if classes else "none"
    small = [f"{name} ({n})" for name, n in found.classes.items() if n < CLASS]
    left_out = f"; left out: {', '.join(small[:3])}{', ...' if len(small) > 3 else ''}" if classes and small else ""
    return Choice(kind, told + left_out)


def _of_classes(kept: list[Seen], found: Survey, condition: str) -> tuple[list[Seen], list[str] | None]:
    """The pictures of classes that are large enough, and the names of these."""
    if condition not in ("classes", "both"):
        return kept, None
    names = found.source.classes or []
    large = sorted(name for name, num in found.classes.items() if num >= CLASS)
    numbers = {names.index(name): k for k, name in enumerate(large)}
    renumbered = [
        replace(seen, item=replace(seen.item, label=numbers[seen.item.label]))
        for seen in kept
        if seen.item.label in numbers
    ]
    return renumbered, large


def _stripped(item: Item, captioned: bool, labelled: bool) -> Item:
    """The item without what is no condition."""
    return replace(item, text=(item.text or "") if captioned else None, label=item.label if labelled else None)


def _tokens(captions: list[str], asked: Asked, lengths: Callable[[list[str]], list[int]]) -> Choice:
    counts = sorted(lengths(captions))
    needed = counts[int(0.95 * (len(counts) - 1))]
    tokens = asked.tokens or next((each for each in TOKENS if each >= needed), TOKENS[-1])
    cut = sum(count > tokens for count in counts)
    foreign = sum(not caption.isascii() for caption in captions)
    reason = f"captions have up to {counts[-1]} tokens, {needed} in 19 of 20; {cut:,} are cut"
    if foreign > 0.1 * len(captions):
        reason += f"; {foreign:,} are not plain English, which the encoder hardly knows"
    return Choice(tokens, reason)


def _val(items: list[Item], asked: Asked) -> Choice:
    """The share that is held out."""
    if any(item.split == "val" for item in items):
        return Choice(0.0, "the folder holds out pictures itself")
    if asked.val is not None:
        if not 0 <= asked.val <= 0.5:
            raise ValueError(f"--val {asked.val:g}: a share from 0 to 0.5 is needed")
        return Choice(asked.val, OWN)
    num = len(items)
    if num < UNTOLD:
        return Choice(
            0.0, f"{num} pictures, and below {UNTOLD} none is held out: memorising cannot be told from learning"
        )
    wanted = min(max(round(0.05 * num), 8), 500)
    low, high = 0.0, 1.0
    while high - low > 1e-6:  # the smallest share that holds out so many
        middle = (low + high) / 2
        enough = sum(held_out(item.key, middle) for item in items) >= wanted
        low, high = (low, middle) if enough else (middle, high)
    return Choice(round(high, 6), f"{wanted:,} of {num:,} pictures, a twentieth or at least 8")


def _flip(kept: list[Seen], condition: str, asked: Asked) -> Choice:
    """Whether mirrored pictures are as good as the true ones: by KID of half of them and the mirrored other half, as grey pictures
    of so few pixels that their number suffices."""
    if asked.flip is not None:
        return Choice(asked.flip, OWN)
    if condition in ("text", "both"):
        return Choice(False, "captions may say left and right")
    from cascade.judge.features import SAMPLES_A_DIMENSION
    from cascade.judge.kernel import kernel_distance

    half = len(kept) // 2
    side = max((side for side in GREYS if half >= SAMPLES_A_DIMENSION * side**2), default=0)
    if not side:
        return Choice(False, f"{len(kept)} pictures are too few to tell them from their mirror")
    pictures = on_background(torch.stack([torch.from_numpy(seen.thumbnail) for seen in kept]))
    grey = adaptive_avg_pool2d(pictures.double().mean(dim=1, keepdim=True) / 127.5 - 1, side)
    order = torch.randperm(len(grey), generator=torch.Generator().manual_seed(0))
    found = kernel_distance(grey[order[:half]].flatten(1), grey[order[half:]].flip(-1).flatten(1))
    alike = found.value < found.error
    verdict = "cannot be told from" if alike else "differ from"
    return Choice(alike, f"mirrored pictures {verdict} the others (KID {found.value:.4f}, its error {found.error:.4f})")
