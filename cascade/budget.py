"""Time budgets: as many steps as seconds allow, shared over the stages by the measured speed of their networks.

A budget becomes plain num_steps before anything is sampled, so that the picture's metadata make it again, on any machine.
"""

import math
from collections.abc import Mapping
from dataclasses import replace

from .engine.batching import call_s
from .link import Link
from .plan import Plan

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


def steps_within(plan: Plan, speeds: Mapping[str, float]) -> dict[str, int]:
    """num_steps of the stages whose num_steps the request leaves open, so that its networks take at most `plan.request.seconds`.

    All keep the same share of the steps that they have in the cascade, at least one, at most all: more would change little, since a
    cascade's own settings are those that are good. Raises ValueError if one step each is too slow.
    """
    seconds = plan.request.seconds
    assert seconds is not None
    per_call = call_seconds(plan, speeds)
    given = plan.request.settings
    is_open = ["num_steps" not in given.get(link.name, {}) for link in plan.links]

    def steps(share: float) -> list[int]:
        own = [link.settings.num_steps for link in plan.links]
        return [max(1, math.floor(num * share + 1e-9)) if free else num for num, free in zip(own, is_open, strict=True)]

    def total(share: float) -> float:
        return sum(
            each * calls(plan, link, num) for each, link, num in zip(per_call, plan.links, steps(share), strict=True)
        )

    shares = {1.0} | {
        k / link.settings.num_steps for link, free in zip(plan.links, is_open, strict=True) if free
        for k in range(1, link.settings.num_steps)
    }  # fmt: skip
    best = next((share for share in sorted(shares, reverse=True) if total(share) <= seconds), None)
    if best is None:
        least = total(0.0)
        if least > seconds:
            raise ValueError(
                f"request: {seconds:g} s is too short, the least takes about {rounded_up(least):g} s here; "
                "allow more, or ask for fewer or smaller pictures"
            )
        best = 0.0
    return {link.name: num for link, num, free in zip(plan.links, steps(best), is_open, strict=True) if free}


def rounded_up(seconds: float) -> float:
    """To two digits, never below: who allows what was said gets it."""
    digits = 1 - math.floor(math.log10(seconds))
    return math.ceil(round(seconds * 10.0**digits, 6)) / 10.0**digits


def calls(plan: Plan, link: Link, num_steps: int) -> int:
    """Calls of a stage of the plan with another number of steps, at most: those of resampling and of an inversion among them."""
    return plan.calls(replace(link, settings=link.settings.model_copy(update={"num_steps": num_steps})))
