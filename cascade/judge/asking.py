"""Samples a cascade for the questions of a ruler: the captions, and the styles as classes, of hidden true pictures."""

from collections.abc import Iterator

import torch
from torch import Tensor

from cascade.events import StageFinished
from cascade.judge.concepts import Asked
from cascade.judge.ruler import ThingRuler
from cascade.pipeline import Cascade
from cascade.request import Request
from data.alpha import on_background
from data.batch import to_float, to_uint8
from data.resize import downsample, upsample

PROMPT = "{text}"  # of a cascade that takes classes; one without is told the style in its prompt
PROMPT_WITH_STYLE = "{text}, {style}"


def request_of(model: Cascade, ruler: ThingRuler, asked: Asked, *, num: int, seed: int, prompt: str = "") -> Request:
    """`num` images of each question. prompt: a template with {text} and {style}. Raises ValueError if the cascade takes no text."""
    by_class = model.conditions.num_classes > 0
    if not model.conditions.text:
        raise ValueError(f"cascade {', '.join(model.names)} takes no text, so it cannot be asked for things")
    template = prompt or (PROMPT if by_class else PROMPT_WITH_STYLE)
    rows = [ruler.known[row] for row in asked.true.tolist()]
    try:
        prompts = tuple(template.format(text=row.text, style=row.style) for row in rows)
    except (KeyError, IndexError, ValueError) as error:
        raise ValueError(f"--prompt {template!r}: {{text}} and {{style}} may stand in it ({error!r})") from None
    names = model.conditions.classes or list(ruler.styles)
    if by_class and (missing := [style for style in ruler.styles if style not in names]):
        raise ValueError(f"the cascade has no class {missing[0]!r}; it has {', '.join(names)}: use a ruler of its data")
    labels = tuple(names.index(row.style) for row in rows) if by_class else ()
    return Request(num=num, seed=seed, prompts=prompts, labels=labels)


def sampled(model: Cascade, request: Request, ruler: ThingRuler) -> Iterator[Tensor]:
    """The pictures of a request in the order of their numbers, uint8 (b, 3, size, size) as the ruler wants them."""
    for event in model.sample(request):
        if isinstance(event, StageFinished) and event.last:
            yield fitted(event.images, ruler)


def fitted(pictures: Tensor, ruler: ThingRuler) -> Tensor:
    """Pictures uint8 (b, 3 or 4, h, w) at the ruler's size, on its background. Smaller ones are enlarged by THE upsample."""
    size = (ruler.size, ruler.size)
    resize = upsample if pictures.shape[-1] < ruler.size else downsample
    return on_background(to_uint8(resize(to_float(pictures), size).clamp(-1, 1)), ruler.background)


def repeated(asked: Asked, num: int) -> Asked:
    """The question of each image of a request with `num` images a question."""
    rows = torch.arange(len(asked)).repeat_interleave(num)
    return Asked(thing=asked.thing[rows], style=asked.style[rows], true=asked.true[rows])
