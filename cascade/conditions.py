"""Prompts and labels to the condition of a chain: one row for each, as the stages were trained to have it."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from data.batch import Cond
from stages.config import CondConfig

from .link import Link
from .request import Request


class Conditions:
    """What a chain can be conditioned on. The text encoder is loaded at the first prompt; a bundle may name one, but only the
    user may let it be downloaded."""

    def __init__(self, links: list[Link], *, download: bool = False):
        self.links, self.download = links, download
        configs = [link.sidecar.config.cond for link in links]
        self.text = next((config.text for config in configs if config.text), None)
        self.tokens = max((config.text.tokens for config in configs if config.text), default=0)
        self.num_classes = max(config.num_classes for config in configs)
        self.classes = class_names(links)

    def of(self, prompts: Sequence[str] = (), labels: Sequence[int] = ()) -> Cond:
        """A row for each of prompts or labels, which were checked; a single null row where there is neither. It is of the make of
        the others, so that they share calls."""
        if prompts:
            text, mask = self._encode(tuple(prompts))
            return Cond.of(torch.ones(len(prompts), dtype=torch.bool), text=text, text_mask=mask)
        if labels:
            return Cond.of(torch.ones(len(labels), dtype=torch.bool), label=torch.tensor(labels))
        dropped = torch.zeros(1, dtype=torch.bool)
        if self.text:
            shape = (1, self.tokens, self.text.dim)
            return Cond.of(dropped, text=torch.zeros(shape), text_mask=torch.zeros(shape[:2], dtype=torch.bool))
        return Cond.of(dropped, label=torch.zeros(1, dtype=torch.int64)) if self.num_classes else Cond.empty(1)

    def check(self, request: Request) -> None:
        """Raises ValueError for a prompt or label that no stage here was trained with."""
        if request.prompts and not self.text:
            other = "; it takes class labels (--label)" if self.num_classes else "; it is unconditional"
            raise ValueError(f"request: a prompt, but {self._who} takes no text{other}")
        if request.labels and not self.num_classes:
            other = "; it takes a prompt" if self.text else "; it is unconditional"
            raise ValueError(f"request: a class label, but {self._who} takes none{other}")
        for label in request.labels:
            if not 0 <= label < self.num_classes:
                raise ValueError(f"request: class {label}; 0 to {self.num_classes - 1} are allowed")

    @property
    def _who(self) -> str:
        """A chain that begins with super-resolution is a part of a cascade, whose other stages may take what these do not."""
        is_part = self.links[0].contract.low_res is not None
        names = ", ".join(link.name for link in self.links)
        return f"what is used of this cascade ({names})" if is_part else "this cascade"

    def _encode(self, prompts: tuple[str, ...]) -> tuple[Tensor, Tensor]:
        from data.text import pad_text

        alone = (self._encoder.encode([prompt])[0] for prompt in prompts)  # in company its last bits would be others
        return pad_text(list(alone), self.tokens)

    @cached_property
    def _encoder(self):
        """The frozen text encoder; refused if it is not the one of training."""
        from data.text import TextEncoder

        assert self.text
        encoder = TextEncoder.load(
            self.text.encoder, max_tokens=self.text.packed_tokens, download=self.download
        )  # check_chain: all stages' captions were cut alike
        wanted = next((link.contract.text_encoder for link in self.links if link.contract.text_encoder), None)
        if encoder.id != wanted:
            raise ValueError(
                f"text encoder {self.text.encoder} is {encoder.id} here, the cascade was trained with {wanted}; "
                "install that one"
            )
        return encoder


def class_names(links: list[Link]) -> tuple[str, ...]:
    """The names of the classes, () where the bundles tell none. Raises ValueError where two stages number them differently."""
    known = {link.name: classes for link in links if (classes := link.sidecar.provenance.classes)}
    first = next(iter(known), "")
    for name, classes in known.items():
        if classes != known[first]:
            raise ValueError(
                f"stage {name} was trained on other classes than {first}; pack the shards of both from one data set"
            )
    return known.get(first, ())


def for_stage(cond: Cond, config: CondConfig) -> Cond:
    """The part of a condition that a stage was trained on: its own number of tokens."""
    text = cond.parts.get("text")
    if text is None or text.mask is None or config.text is None:
        return cond
    num = config.text.tokens
    own = replace(text, value=text.value[:, :num], mask=text.mask[:, :num])
    return replace(cond, parts={**cond.parts, "text": own})
