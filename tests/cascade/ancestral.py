"""A sampler that draws noise on its way and has an option, as a version to come may have it: DDIM with eta, here
called share.

It must be imported before `stages.config`, which makes its keys of the samplers that there are:
`pytest -p tests.cascade.ancestral`, see test_ancestral.py.
"""

import math

from torch import Tensor

from stages.diffusion.samplers import SAMPLERS, Noise, Option, Sampler, SamplerKind, intervals, query


def ancestral(x: Tensor, sigmas: Tensor, *, noise: Noise, share: float) -> Sampler:
    """Song et al. 2020a, eq. 16, in sigma: of the variance at the next level, a share is fresh noise. share 0 is `euler` and draws
    none, 1 is the ancestral sampler of DDPM."""
    for step, (sigma, sigma_next) in enumerate(intervals(sigmas)):
        x0_hat = (yield query(x, sigma)).x0_hat
        fresh = share * sigma_next * math.sqrt(1 - (sigma_next / sigma) ** 2)
        x = x0_hat + (math.sqrt(sigma_next**2 - fresh**2) / sigma) * (x - x0_hat)
        if fresh > 0:
            x = x + fresh * noise(f"step {step}", x.shape).to(x)
    return x


SAMPLERS["ancestral"] = SamplerKind(
    function=ancestral,
    order=1,
    draws=True,
    options={"share": Option(default=1.0, low=0.0, high=1.0, help="share of fresh noise at each step; 0 is euler")},
)
