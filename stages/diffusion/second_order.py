"""Samplers that query twice a step: Heun's method on a grid, and with steps that each row chooses for itself."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .churn import churned
from .query import Noise, Query, Sampler, intervals, query

if TYPE_CHECKING:
    from torch import Tensor

SAFETY, SHRINK, GROW = 0.9, 0.2, 5.0  # of a step's size from one to the next (Hairer et al. 1993, II.4)


def heun(
    x: "Tensor", sigmas: "Tensor", *, noise: Noise, churn: float, churn_min: float, churn_max: float, churn_noise: float
) -> Sampler:
    """Second order, EDM algorithm 2. nfe = 2 * num_steps - 1: the last interval, to 0, is an Euler step."""
    steps = intervals(sigmas)
    for step, (sigma, sigma_next) in enumerate(steps):
        if churn_min <= sigma <= churn_max:
            x, sigma = churned(x, sigma, churn / len(steps), churn_noise, noise, step)
        x0_hat = (yield query(x, sigma)).x0_hat
        slope = (x - x0_hat) / sigma
        x_next = x + (sigma_next - sigma) * slope
        if sigma_next > 0:
            x0_hat = (yield query(x_next, sigma_next)).x0_hat
            x_next = x + (sigma_next - sigma) * (slope + (x_next - x0_hat) / sigma_next) / 2
        x = x_next
    return x


def adaptive(x: "Tensor", sigmas: "Tensor", *, tolerance: float) -> Sampler:
    """Heun's method with steps of each row's own size in log(sigma), from the difference to Euler's step (an embedded pair).

    A step to s is accepted if the root mean square of that difference is at most tolerance * sqrt(1 + s^2): an error in a picture
    at low noise, a share of the noise at high. No row falls behind the grid: its k-th attempt ends at sigmas[k] or below, and what
    is refused is repeated up to there and accepted. So the grid's steps are the finest; nfe is at most 3 * num_steps - 2.
    """
    bounds = [sigma_next for _, sigma_next in intervals(sigmas) if sigma_next > 0]
    rows = [Row(sigma=float(sigmas[0])) for _ in range(len(x))]
    x0_hat = x.clone()  # of the rows that were asked where they stand
    for bound in bounds:
        todo = [k for k, row in enumerate(rows) if row.sigma > bounds[-1]]
        if fresh := [k for k in todo if not rows[k].is_asked]:
            x0_hat[fresh] = (yield part(x, fresh, [rows[k].sigma for k in fresh])).x0_hat
        for k in todo:
            rows[k].aim(bound, bounds[-1])
        while todo:
            here, there = (column(x, [getattr(rows[k], name) for k in todo]) for name in ("sigma", "target"))
            slope = (x[todo] - x0_hat[todo]) / here
            x_euler = x.clone()
            x_euler[todo] = x[todo] + (there - here) * slope
            ahead = (yield part(x_euler, todo, [rows[k].target for k in todo])).x0_hat
            change = (there - here) * ((x_euler[todo] - ahead) / there - slope) / 2
            allowed = tolerance * (1 + there.square()).sqrt()
            errors = (change / allowed).flatten(1).square().mean(1).sqrt().tolist()
            taken = [n for n, k in enumerate(todo) if rows[k].takes(errors[n], bound)]
            x = x.clone()
            x[[todo[n] for n in taken]] = (x_euler[todo] + change)[taken]
            todo = [k for k in todo if rows[k].sigma > bound]
    return x if sigmas[-1] > 0 else (yield query(x, rows[0].sigma)).x0_hat


@dataclass
class Row:
    """A row of `adaptive`: its level, the next it aims at, its step in log(sigma), and whether it has x0_hat of where it stands."""

    sigma: float
    target: float = 0.0
    step: float = 0.0
    is_asked: bool = False

    def aim(self, bound: float, end: float) -> None:
        """Aim a step further down, to `bound` at least and to `end` at most."""
        self.is_asked = True
        self.step = self.step or math.log(self.sigma / bound)
        self.target = max(end, min(bound, self.sigma * math.exp(-self.step)))

    def takes(self, error: float, bound: float) -> bool:
        """Whether the step is accepted, which moves the row; if not, it aims at `bound` if that is ahead. error: 1 is the most that
        is accepted below `bound`."""
        change = SAFETY / math.sqrt(error) if error > 0 else GROW
        self.step = math.log(self.sigma / self.target) * min(GROW, max(SHRINK, change))
        if error <= 1 or self.target == bound:
            self.sigma, self.is_asked = self.target, False
            return True
        self.target = min(bound, self.sigma)
        return False


def part(x: "Tensor", rows: list[int], sigmas: list[float]) -> Query:
    """Query some rows of a batch, each at its own level."""
    everyone = len(rows) == len(x)
    return Query(x[rows], x.new_tensor(sigmas), None if everyone else x.new_tensor(rows).long())


def column(x: "Tensor", sigmas: list[float]) -> "Tensor":
    """A number for each row, to be multiplied with rows of x."""
    return x.new_tensor(sigmas).reshape(-1, *[1] * (x.ndim - 1))
