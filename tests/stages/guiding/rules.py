"""Rules of guidance without networks: hosts are functions of an ask, so that every answer is known."""

from collections import Counter
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from data.batch import Cond, Part
from stages.ask import Ask
from stages.diffusion.samplers import Answer, Query, Sampler
from stages.guidance import Guidance

Hosts = Mapping[str, Callable[[Ask], Tensor]]


def answered(rule: Guidance, query: Query, hosts: Hosts, asked: Counter | None = None) -> Tensor:
    """x0_hat of the rule. asked: counts rows by host."""
    asks = rule.asks(query)
    if asked is not None:
        asked.update({name: 0 for name, _ in asks})
        for name, ask in asks:
            asked[name] += ask.rows
    return rule.combine(query, [Answer(hosts[name](ask)) for name, ask in asks]).x0_hat


def driven(rule: Guidance, sampler: Sampler, hosts: Hosts, asked: Counter | None = None) -> Tensor:
    """x0 of a sampler."""
    query = next(sampler)
    while True:
        x0_hat = answered(rule, query, hosts, asked)
        try:
            query = sampler.send(Answer(x0_hat))
        except StopIteration as stop:
            return stop.value


def toy(ask: Ask, bend: float = 1.0) -> Tensor:
    """A network whose rows do not see each other, to the bit: text, label and level bend x in ways of their own."""
    x = ask.query.x
    given = torch.zeros(len(x), dtype=x.dtype)
    for name, weight in (("text", 1.0), ("label", 0.6)):
        part = ask.cond.parts.get(name)
        if part is not None:
            value = part.value.reshape(len(x), -1)[:, 0].to(x.dtype)
            given = given + torch.where(part.keep, weight * (value + 0.3), torch.zeros(()).to(x.dtype))
    sigma = ask.query.sigma.to(x.dtype)
    expanded = [value.reshape(-1, *[1] * (x.ndim - 1)) for value in (given, sigma)]
    return torch.tanh(x / (1 + expanded[1]) + bend * expanded[0])


def texts(*values: float) -> Cond:
    """A cond with the part "text" alone, of 2 tokens of 3 numbers, the first of which is the value; nan: not kept."""
    keep = torch.tensor([value == value for value in values])
    first = torch.tensor(values).nan_to_num()
    value = torch.cat([first[:, None, None].expand(-1, 2, 1), torch.ones(len(values), 2, 2)], dim=2)
    mask = torch.ones(len(values), 2, dtype=torch.bool)
    return Cond(num=len(values), parts={"text": Part(value=value, keep=keep, mask=mask)})


def described(text: Cond, labels: tuple[int, ...]) -> Cond:
    """The texts with labels beside them; -1: not kept."""
    label = torch.tensor(labels)
    part = Part(value=label.clamp(min=0), keep=label >= 0)
    return Cond(num=text.num, parts={**text.parts, "label": part})
