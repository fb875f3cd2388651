"""Checks of features before they are compared: shape, finite values, and ten samples a dimension on either side.

With fewer samples the covariance of d dimensions is mostly noise: at ten a dimension the Fréchet distance between two
draws of one law is still 5 % of the total variance (its bias falls as d / N).
"""

import torch
from torch import Tensor

SAMPLES_A_DIMENSION = 10


def check_features(features: Tensor, side: str) -> Tensor:
    """Features (n, d) in float64. Raises ValueError, beginning with `side`, for other shapes, dtypes or values."""
    if features.ndim != 2 or not features.is_floating_point() or not features.numel():
        shape, dtype = tuple(features.shape), str(features.dtype).removeprefix("torch.")
        raise ValueError(f"{side}: features are {dtype} {shape}; floating (n, d) is needed, one row a picture")
    finite = features.isfinite().all(dim=1)
    if not finite.all():
        bad = len(features) - int(finite.sum())
        first = int((~finite).nonzero()[0])
        raise ValueError(f"{side}: {bad} of {len(features)} rows have NaN or inf, first row {first}; leave them out")
    return features.double()


def check_enough(num: int, dimensions: int, side: str) -> None:
    """Raise ValueError for fewer than ten samples a dimension."""
    needed = SAMPLES_A_DIMENSION * dimensions
    if num < needed:
        fits = num // SAMPLES_A_DIMENSION
        other = f", or take features of at most {fits} dimensions" if fits else ""
        raise ValueError(
            f"{side}: {num:,} samples for {dimensions:,} dimensions; ten a dimension, {needed:,}, are needed: "
            f"add pictures{other}"
        )


def check_pair(real: Tensor, generated: Tensor, equal: bool = True) -> tuple[Tensor, Tensor]:
    """Both sides in float64, of the same dimensions, ten samples a dimension each, and of `equal` N if so required."""
    real, generated = check_features(real, "real"), check_features(generated, "generated")
    if real.shape[1] != generated.shape[1]:
        raise ValueError(
            f"features: real have {real.shape[1]:,} dimensions, generated {generated.shape[1]:,}; "
            "they must be equal: compute both with one ruler"
        )
    check_enough(len(real), real.shape[1], "real")
    check_enough(len(generated), real.shape[1], "generated")
    if equal:
        check_equal(len(real), len(generated))
    return real, generated


def check_equal(real: int, generated: int) -> None:
    """Raise ValueError for different N: the bias of most measures depends on N."""
    if real != generated:
        raise ValueError(
            f"samples: {real:,} real and {generated:,} generated; the same N is needed on both sides: "
            f"draw {min(real, generated):,} of the larger side"
        )


def draw(features: Tensor, num: int, generator: torch.Generator) -> Tensor:
    """`num` random rows without replacement."""
    return features[torch.randperm(len(features), generator=generator)[:num]]


def halves(features: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Two random disjoint halves of equal size; an odd row is left out."""
    mixed = draw(features, len(features) // 2 * 2, generator)
    return mixed[: len(mixed) // 2], mixed[len(mixed) // 2 :]
