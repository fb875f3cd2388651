"""Time budgets: as many steps as seconds allow, shared over the stages by the measured speed of their networks.

A budget becomes plain num_steps before anything is sampled, so that the picture's metadata make it again, on any machine.
"""

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import replace

from .engine.batching import call_s
from .link import Link
from .plan import Plan
from .request import Request

ROWS = 16  # most rows of a measured call
TRIES = 3


def measured(plan: Plan) -> dict[str, float]:
    """Seconds of one row of a call, by host, in calls as large as the plan's; the minimum of TRIES calls after a warm-up."""
    speeds = {}
    for link in plan.links:
        for role, rows in link.rows.items():
            host = link.hosts[role]
            num = max(1, min(ROWS, min(plan.per_chunk, len(plan.index)) * rows))
            speeds[host.name] = min([call_s(host, num) for _ in range(TRIES + 1)][1:]) / num
    return speeds


def call_seconds(plan: Plan, speeds: Mapping[str, float]) -> list[float]:
    """Seconds of one call for all images of a plan, by stage; time is taken as proportional to the area."""
    return [
        len(plan.index) * h * w / link.contract.resolution**2
        * sum(rows * speeds[link.hosts[role].name] for role, rows in link.rows.items())
        for link, (h, w) in zip(plan.links, plan.sizes, strict=True)
    ]  # fmt: skip


def steps_within(plans: Sequence[Plan], speeds: Mapping[str, float], seconds: float) -> list[dict[str, int]]:
    """num_steps of the stages whose num_steps the requests leave open, a dict for each plan, so that the networks take at most
    `seconds` for all plans together.

    All keep the same share of the steps that they have in the cascade, at least one, at most all: more would change little, since a
    cascade's own settings are those that are good. Raises ValueError if one step each is too slow.
    """
    costs = [call_seconds(plan, speeds) for plan in plans]

    def total(share: float) -> float:
        return sum(
            each * calls(plan, link, steps(plan, link, share))
            for plan, cost in zip(plans, costs, strict=True)
            for each, link in zip(cost, plan.links, strict=True)
        )

    own = {link.settings.num_steps for plan in plans for link in plan.links if is_open(plan, link)}
    shares = sorted({0.0, 1.0} | {k / num for num in own for k in range(1, num)})
    number = bisect_right(shares, seconds, key=total)
    if not number:
        raise ValueError(
            f"request: {seconds:g} s is too short, the least takes about {rounded_up(total(0.0)):g} s here; "
            "allow more, or ask for fewer or smaller pictures"
        )
    best = shares[number - 1]
    return [{link.name: steps(plan, link, best) for link in plan.links if is_open(plan, link)} for plan in plans]


def is_open(plan: Plan, link: Link) -> bool:
    """Whether a plan's request leaves a stage's num_steps open."""
    return "num_steps" not in plan.request.settings.get(link.name, {})


def steps(plan: Plan, link: Link, share: float) -> int:
    """num_steps of a stage at a share of its own, at least one; its own where they are not open."""
    own = link.settings.num_steps
    return max(1, math.floor(own * share + 1e-9)) if is_open(plan, link) else own


def with_steps(request: Request, num_steps: Mapping[str, int]) -> Request:
    """A request with these num_steps in place of its `seconds`."""
    settings = {**request.settings}
    for name, num in num_steps.items():
        settings[name] = {**settings.get(name, {}), "num_steps": num}
    return replace(request, settings=settings, seconds=None)


def rounded_up(seconds: float) -> float:
    """To two digits, never below: who allows what was said gets it."""
    digits = 1 - math.floor(math.log10(seconds))
    return math.ceil(round(seconds * 10.0**digits, 6)) / 10.0**digits


def calls(plan: Plan, link: Link, num_steps: int) -> int:
    """Calls of a stage of the plan with another number of steps, at most: those of resampling and of an inversion among them."""
    return plan.calls(replace(link, settings=link.settings.model_copy(update={"num_steps": num_steps})))
