"""What samplers and grids of k-diffusion 0.1.1.post1 give in a world that tests can compute again; the JSON beside it holds it.

k-diffusion wants a dozen packages that nothing else here does, so it is no dependency; to make the numbers anew:

    uv run --no-project --with k-diffusion==0.1.1.post1 python tests/stages/diffusion/k_diffusion_oracle.py
"""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

STORED = Path(__file__).with_suffix(".json")

NUM_STEPS, LOW, HIGH = 10, 0.02, 10.0
CHURN = {"churn": 4.0, "churn_min": 0.1, "churn_max": 8.0, "churn_noise": 1.01}
CASES: dict[str, tuple[str, dict[str, float]]] = {
    "euler": ("sample_euler", {}),
    "euler churn": ("sample_euler", CHURN),
    "heun": ("sample_heun", {}),
    "heun churn": ("sample_heun", CHURN),
    "ancestral 1": ("sample_euler_ancestral", {"eta": 1.0}),
    "ancestral 0.5": ("sample_euler_ancestral", {"eta": 0.5}),
    "dpmpp_2m": ("sample_dpmpp_2m", {}),
    "dpmpp_2m_sde 1": ("sample_dpmpp_2m_sde", {"eta": 1.0}),
    "dpmpp_2m_sde 0.5": ("sample_dpmpp_2m_sde", {"eta": 0.5}),
    "dpmpp_3m_sde 1": ("sample_dpmpp_3m_sde", {"eta": 1.0}),
    "dpmpp_3m_sde 0": ("sample_dpmpp_3m_sde", {"eta": 0.0}),
}  # name: function there and its options, churn under our names
THEIRS = {"churn": "s_churn", "churn_min": "s_tmin", "churn_max": "s_tmax", "churn_noise": "s_noise"}


def start() -> Tensor:
    """x at the highest level, (2, 1, 2, 2) float64."""
    return HIGH * torch.cos(torch.arange(8, dtype=torch.float64)).reshape(2, 1, 2, 2)


def denoise(x: Tensor, sigma: Tensor) -> Tensor:
    """The mean of x0 given x, where each number is N(-1, 0.25) or N(1, 0.25), both as likely."""
    total = sigma.double().square().reshape(-1, 1, 1, 1) + 0.25
    mean = torch.tanh(x / total)
    return mean + 0.25 / total * (x - mean)


def power_levels() -> Tensor:
    """Eleven levels, (NUM_STEPS + 1,) float64, the last 0."""
    ramp = torch.linspace(HIGH ** (1 / 7), LOW ** (1 / 7), NUM_STEPS, dtype=torch.float64)
    return torch.cat([ramp**7, ramp.new_zeros(1)])


def wave(number: int) -> Tensor:
    """Stands for the noise of step `number`, of unit variance about."""
    return 2**0.5 * torch.sin(1.7 * (number + 1) * torch.arange(1, 9, dtype=torch.float64)).reshape(2, 1, 2, 2)


def main() -> None:
    from k_diffusion import sampling

    grids = {
        "power": sampling.get_sigmas_karras(NUM_STEPS, LOW, HIGH),
        "loguniform": sampling.get_sigmas_exponential(NUM_STEPS, LOW, HIGH),
    }
    levels = power_levels()
    ends = {}
    for name, (function, options) in CASES.items():
        steps = itertools.count()  # each of theirs draws once a step

        def noise(*_: object, steps: Iterator[int] = steps) -> Tensor:
            return wave(next(steps))

        given: dict[str, Any] = {THEIRS.get(key, key): value for key, value in options.items()}
        if "eta" in given:
            given["noise_sampler"] = noise
        with mock.patch("torch.randn_like", noise):
            found = getattr(sampling, function)(denoise, start(), levels, disable=True, **given)
        ends[name] = found.flatten().tolist()
    numbers = {"grids": {name: grid.tolist() for name, grid in grids.items()}, "ends": ends}
    STORED.write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    main()
