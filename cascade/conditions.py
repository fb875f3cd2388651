"""Prompts and class labels to conditions: one row each, in the form that the stages were trained with."""

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
    """The conditions that a chain accepts. The text encoder is loaded at the first prompt, and downloaded only with
    `download`, which is the user's decision, not the bundle's."""

    def __init__(self, links: list[Link], *, download: bool = False):
        self.links, self.download = links, download
        configs = [link.sidecar.config.cond for link in links]
        self.text = next((config.text for config in configs if config.text), None)
        self.tokens = max((config.text.tokens for config in configs if config.text), default=0)
        self.num_classes = max(config.num_classes for config in configs)
        self.classes = class_names(links)

    def of(self, prompts: Sequence[str] = (), labels: Sequence[int] = ()) -> Cond:
        """A row for each prompt or label (already checked), or one null row if there are none. The null row has the same
        parts and shapes (`make`), so that it can share network calls with the others."""
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
        """Raise ValueError if no stage was trained with text or classes, or for a class number out of range."""
        if request.prompts and not self.text:
            hint = "; it takes class labels (--label)" if self.num_classes else "; it is unconditional"
            raise ValueError(f"request: a prompt, but {self._who} takes no text{hint}")
        if request.labels and not self.num_classes:
            hint = "; it takes a prompt" if self.text else "; it is unconditional"
            raise ValueError(f"request: a class label, but {self._who} takes none{hint}")
        for label in request.labels:
            if not 0 <= label < self.num_classes:
                raise ValueError(f"request: class {label}; 0 to {self.num_classes - 1} are allowed")

    @property
    def _who(self) -> str:
        """Subject of error messages. A chain that begins with super-resolution is only a part of its cascade, and the other
        stages may accept what these do not."""
        is_part = self.links[0].contract.low_res is not None
        names = ", ".join(link.name for link in self.links)
        return f"what is used of this cascade ({names})" if is_part else "this cascade"

    def _encode(self, prompts: tuple[str, ...]) -> tuple[Tensor, Tensor]:
        from data.text import pad_text

        encoded = (self._encoder.encode([prompt])[0] for prompt in prompts)  # batching would change the last bits
        return pad_text(list(encoded), self.tokens)

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
    """The condition with its text cut to the number of tokens that the stage was trained on."""
    text = cond.parts.get("text")
    if text is None or text.mask is None or config.text is None:
        return cond
    num = config.text.tokens
    shortened = replace(text, value=text.value[:, :num], mask=text.mask[:, :num])
    return replace(cond, parts={**cond.parts, "text": shortened})
