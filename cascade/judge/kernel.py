"""Kernel distance (KID where the ruler is Inception): squared MMD under k(x, y) = (x.y / d + 1)^3; Binkowski et al. 2018.

The full unbiased U-statistic over all pictures, not a mean over subsets: its expectation does not depend on N, so it
decides where sets are small. It may be negative, and it is not 0 for identical sets (there its diagonal is missing);
of two draws of one law its mean is 0.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from cascade.judge.distances import ROWS
from cascade.judge.estimate import Estimate
from cascade.judge.features import check_pair


@dataclass(frozen=True, kw_only=True)
class KernelDistance:
    """KID and its standard error over pictures."""

    value: float
    error: float


def kernel_distance(real: Tensor, generated: Tensor) -> KernelDistance:
    """KID of features (m, d) and (n, d), m and n may differ; the error is the two-sample jackknife over pictures.

    Near 0 the statistic is degenerate and the jackknife errs on the safe side: it is larger than the std over draws.
    """
    estimate = kernel_estimate(real, generated)
    return KernelDistance(value=estimate.value, error=estimate.error)


def kernel_estimate(real: Tensor, generated: Tensor) -> Estimate:
    """KID as `kernel_distance` has it, with its values without each real and without each generated picture."""
    real, generated = check_pair(real, generated, equal=False)
    m, n = len(real), len(generated)
    if min(m, n) < 3:
        raise ValueError(f"KID: {m} real and {n} generated samples; at least 3 a side are needed: add pictures")
    within_real, within_generated = _others(real), _others(generated)
    to_generated, to_real = _sums(real, generated), _sums(generated, real)
    a, b, c = within_real.sum(), within_generated.sum(), to_generated.sum()
    real_term, generated_term = a / (m * (m - 1)), b / (n * (n - 1))
    without_real = (a - 2 * within_real) / ((m - 1) * (m - 2)) + generated_term - 2 * (c - to_generated) / ((m - 1) * n)
    without_generated = real_term + (b - 2 * within_generated) / ((n - 1) * (n - 2)) - 2 * (c - to_real) / (m * (n - 1))
    return Estimate(
        value=(real_term + generated_term - 2 * c / (m * n)).item(), left_out=(without_real, without_generated)
    )


def _kernel(products: Tensor, dimensions: int) -> Tensor:
    return (products / dimensions + 1) ** 3


def _sums(x: Tensor, y: Tensor) -> Tensor:
    """For each row of x, the sum of the kernel over all rows of y."""
    return torch.cat([_kernel(part @ y.T, x.shape[1]).sum(dim=1) for part in x.split(ROWS)])


def _others(x: Tensor) -> Tensor:
    """For each row of x, the sum of the kernel over the other rows."""
    return _sums(x, x) - _kernel(x.square().sum(dim=1), x.shape[1])
