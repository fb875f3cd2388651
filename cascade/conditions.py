"""Prompts and class labels to conditions: a row for each description, in the form that the stages were trained with."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from data.batch import Cond, Part
from data.errors import nearest
from stages.config import CondConfig
from stages.guiding.beside import Beside

from .link import Link
from .request import Request, of_rows


class Conditions:
    """The conditions that a chain accepts. The text encoder is loaded at the first prompt, and downloaded only with
    `download`, which is the user's decision, not the bundle's."""

    def __init__(self, links: list[Link], *, download: bool = False):
        self.links, self.download = links, download
        configs = [link.sidecar.config.cond for link in links]
        self.text = next((config.text for config in configs if config.text), None)
        self.tokens = max((config.text.tokens for config in configs if config.text), default=0)
        self.num_classes = max(config.num_classes for config in configs)
        self.classes = class_names(links)
        self.maps = {config.maps.channels for config in configs if config.maps}

    def of(self, prompts: Sequence[str] = (), labels: Sequence[int] = ()) -> Cond:
        """A row for each prompt, label or pair of them (already checked), or one null row if there are none.

        Rows have every part that the chain knows, dropped where it is not given: so all have the same parts and shapes (`make`)
        and can share network calls.
        """
        num, parts = max(len(prompts), len(labels), 1), {}
        if self.num_classes:
            label = torch.tensor(labels, dtype=torch.int64) if labels else torch.zeros(num, dtype=torch.int64)
            parts["label"] = Part(value=label, keep=torch.full((num,), bool(labels)))
        if self.text:
            parts["text"] = self._texts(tuple(prompts)) if prompts else self._no_text(num)
        return Cond(num=num, parts=parts)

    def beside(self, request: Request, rows: Sequence[int]) -> Beside:
        """What a request says about the guidance of these descriptions, but for the scales, which are a stage's. A description
        without a negative text has none there, one with fewer composed texts than others has the weight 0."""
        if not self.text:
            return Beside()
        negative, composed = of_rows(request.negative, rows), of_rows(request.composed, rows)
        texts = []
        for place in range(max(map(len, composed), default=0)):
            there = [each[place] if place < len(each) else ("", 0.0) for each in composed]
            texts.append((self._alone([text for text, _ in there]), tuple(weight for _, weight in there)))
        return Beside(negative=self._alone(negative) if any(negative) else None, composed=tuple(texts))

    def _alone(self, texts: Sequence[str]) -> Cond:
        """A cond with the part "text" alone, not kept where a text is empty."""
        part = self._texts(tuple(texts))
        keep = torch.tensor([bool(text) for text in texts])
        return Cond(num=len(texts), parts={"text": replace(part, keep=keep)})

    def _texts(self, texts: tuple[str, ...]) -> Part:
        value, mask = self._encode(texts)
        return Part(value=value, keep=torch.ones(len(texts), dtype=torch.bool), mask=mask)

    def _no_text(self, num: int) -> Part:
        assert self.text
        shape = (num, self.tokens, self.text.dim)
        value, mask = torch.zeros(1, 1, 1).expand(shape), torch.zeros(1, 1, dtype=torch.bool).expand(shape[:2])
        return Part(value=value, keep=torch.zeros(num, dtype=torch.bool), mask=mask)

    def numbers(self, labels: Sequence[int | str], what: str = "request: label") -> tuple[int, ...]:
        """Class numbers of class names or decimal numbers. what: begins the message. Raises ValueError for a name that is not
        there; `check` tests the range of numbers."""
        positions = {name: number for number, name in enumerate(self.classes)}
        numbers = []
        for label in labels:
            if not isinstance(label, str):
                numbers.append(label)
            elif label in positions:
                numbers.append(positions[label])
            elif label.isdecimal():
                numbers.append(int(label))
            else:
                known = f"one of the {len(self.classes)} classes of the data" if self.classes else ""
                expected = known or "a name that the bundles know"
                hint = nearest(label, list(self.classes))
                raise ValueError(f"{what} {label[:60]}: neither a number nor {expected}{hint}")
        return tuple(numbers)

    def check(self, request: Request) -> None:
        """Raise ValueError if no stage was trained with text or classes, or for a class number out of range."""
        self._check_maps(request)
        if request.prompts and not self.text:
            hint = "; it takes class labels (--label)" if self.num_classes else "; it is unconditional"
            raise ValueError(f"request: a prompt, but {self._who} takes no text{hint}")
        if request.labels and not self.num_classes:
            hint = "; it takes a prompt" if self.text else "; it is unconditional"
            raise ValueError(f"request: a class label, but {self._who} takes none{hint}")
        if (any(request.negative) or any(request.composed)) and not self.text:
            what = "negative" if any(request.negative) else "composed"
            raise ValueError(f"request: a {what} text, but {self._who} takes no text; leave it out")
        for label in self.numbers(request.labels):
            if not 0 <= label < self.num_classes:
                raise ValueError(f"request: class {label}; 0 to {self.num_classes - 1} are allowed")

    def _check_maps(self, request: Request) -> None:
        if request.maps is None:
            return
        if not self.maps:
            raise ValueError(f"request: maps, but {self._who} takes none; leave them out")
        if self.maps != {given := request.maps.shape[1]}:
            wanted = " and ".join(map(str, sorted(self.maps)))
            raise ValueError(f"request: maps of {given} channels, {self._who} takes {wanted}; convert them")

    @property
    def _who(self) -> str:
        """Subject of error messages. A chain that begins with super-resolution is only a part of its cascade, and the other
        stages may accept what these do not."""
        is_part = self.links[0].contract.low_res is not None
        names = ", ".join(link.name for link in self.links)
        return f"what is used of this cascade ({names})" if is_part else "this cascade"

    def _encode(self, prompts: tuple[str, ...]) -> tuple[Tensor, Tensor]:
        from data.text import pad_text

        encode = self._encoder.encode
        encoded = {
            prompt: encode([prompt])[0] for prompt in dict.fromkeys(prompts)
        }  # a batch would change the last bits
        return pad_text([encoded[prompt] for prompt in prompts], self.tokens)

    @cached_property
    def _encoder(self):
        """The frozen text encoder. Raises ValueError if it is not the one used in training."""
        from data.text import TextEncoder

        assert self.text
        encoder = TextEncoder.load(
            self.text.encoder, max_tokens=self.text.packed_tokens, download=self.download
        )  # the captions of all stages were cut to the same length: see manifest.check_chain
        expected_id = next((link.contract.text_encoder for link in self.links if link.contract.text_encoder), None)
        if encoder.id != expected_id:
            raise ValueError(
                f"text encoder {self.text.encoder} is {encoder.id} here, the cascade was trained with {expected_id}; "
                "install that one"
            )
        return encoder


def class_names(links: list[Link]) -> tuple[str, ...]:
    """Class names in order of their numbers, () if no bundle has any. Raises ValueError if two stages number them differently."""
    by_stage = {link.name: classes for link in links if (classes := link.sidecar.provenance.classes)}
    first = next(iter(by_stage), "")
    for name, classes in by_stage.items():
        if classes != by_stage[first]:
            raise ValueError(
                f"stage {name} was trained on other classes than {first}; pack the shards of both from one data set"
            )
    return by_stage.get(first, ())


def for_stage(cond: Cond, config: CondConfig) -> Cond:
    """The condition with its text cut to the number of tokens that the stage was trained on, without the maps and original sizes of
    other stages."""
    own = (("maps", config.maps), ("original_size", config.original_size))
    if others := [name for name, has in own if not has and name in cond.parts]:
        cond = cond.without(*others)
    text = cond.parts.get("text")
    if text is None or text.mask is None or config.text is None:
        return cond
    num = config.text.tokens
    shortened = replace(text, value=text.value[:, :num], mask=text.mask[:, :num])
    return replace(cond, parts={**cond.parts, "text": shortened})


def beside_of_stage(beside: Beside, config: CondConfig) -> Beside:
    """What is said of guidance with its texts cut as those of the condition; without them for a stage that takes no text."""
    if config.text is None:
        return replace(beside, negative=None, composed=())
    return replace(
        beside,
        negative=beside.negative and for_stage(beside.negative, config),
        composed=tuple((for_stage(text, config), weights) for text, weights in beside.composed),
    )
