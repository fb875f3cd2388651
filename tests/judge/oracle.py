"""What torch-fidelity 0.4.0 says of features that the tests can draw again; `oracle.json` holds it.

torch-fidelity installs a top-level package `tests`, which would hide ours, so it is no dependency; to make the numbers anew:

    uv run --no-project --with torch-fidelity==0.4.0 --with torch --with torchvision python tests/judge/oracle.py
"""

import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

STORED = Path(__file__).with_suffix(".json")
SEEDS = range(3)


def draw(num: int, dimensions: int = 8, seed: int = 0, shift: float = 0.0, scale: float = 1.0) -> Tensor:
    """(num, dimensions) float64 of N(shift, scale^2)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num, dimensions, generator=generator, dtype=torch.float64) * scale + shift


def mixing(seed: int) -> Tensor:
    """A (6, 6) matrix that gives features a covariance."""
    return torch.randn(6, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def frechet(seed: int) -> tuple[Tensor, Tensor]:
    """Two sides, 200 of 6 dimensions each, for the Fréchet distance."""
    return draw(200, 6, seed=seed) @ mixing(seed), draw(200, 6, seed=seed + 9, shift=0.2) @ mixing(seed + 1)


def kernel(seed: int) -> tuple[Tensor, Tensor]:
    """Two sides for the kernel distance."""
    return draw(150, 6, seed=seed), draw(150, 6, seed=seed + 5, shift=0.3, scale=1.5)


def manifold(seed: int) -> tuple[Tensor, Tensor]:
    """The real and the generated side for precision and recall."""
    return draw(150, 6, seed=seed), draw(150, 6, seed=seed + 9, shift=0.5, scale=0.8)


def logits() -> Tensor:
    """(300, 5) logits for the Inception score."""
    return draw(300, 5, scale=3.0)


def pictures(num: int, size: tuple[int, int] = (40, 52), seed: int = 0) -> Tensor:
    """uint8 (num, 3, *size), white noise."""
    return torch.randint(256, (num, 3, *size), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)


def weights(shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """Random weights of a network by the names and shapes of its state dict, such that activations neither vanish nor explode."""
    generator, found = torch.Generator().manual_seed(1), {}
    for name, shape in sorted(shapes.items()):
        if name.endswith("num_batches_tracked"):
            continue
        noise = torch.randn(shape, generator=generator)
        if len(shape) > 1:
            found[name] = noise * (2 / shape[1:].numel()) ** 0.5
        else:
            found[name] = 1 + 0.1 * noise.abs() if name.endswith(("bn.weight", "running_var")) else 0.1 * noise
    return found


def heads(channels: tuple[int, ...]) -> dict[str, Tensor]:
    """Random heads of LPIPS, which are not negative."""
    return {
        f"lin{k}.model.1.weight": draw(num, 1, seed=k).abs().float().reshape(1, num, 1, 1)
        for k, num in enumerate(channels)
    }


def stored() -> dict[str, Any]:
    """The numbers by measure; a list is by seed."""
    return json.loads(STORED.read_text())


def main() -> None:
    from torch_fidelity import metric_fid, metric_isc, metric_kid, metric_prc
    from torch_fidelity import sample_similarity_lpips as lpips_of
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    from torchvision import models

    def fid(a: Tensor, b: Tensor) -> float:
        sides = (metric_fid.fid_features_to_statistics(side) for side in (a, b))
        return metric_fid.fid_statistics_to_metric(*sides, False)["frechet_inception_distance"]

    def kid(a: Tensor, b: Tensor) -> float:
        found = metric_kid.kid_features_to_metric(a, b, kid_subsets=1, kid_subset_size=len(a), verbose=False)
        return found["kernel_inception_distance_mean"]

    def prc(real: Tensor, generated: Tensor) -> list[float]:
        how = {"prc_neighborhood": 3, "prc_batch_size": 1000, "save_cpu_ram": False, "verbose": False}
        found = metric_prc.prc_features_to_metric(generated, real, **how)
        return [found["precision"], found["recall"]]

    def shapes(network: torch.nn.Module) -> dict[str, torch.Size]:
        return {name: each.shape for name, each in network.state_dict().items()}

    def inception() -> dict[str, list[list[float]]]:
        names = ["2048", "logits_unbiased"]
        with tempfile.TemporaryDirectory() as folder:
            path = f"{folder}/weights.pth"
            network = models.Inception3(1008, aux_logits=False, init_weights=False)
            torch.save(weights(shapes(network)), path)
            extractor = FeatureExtractorInceptionV3("inception", names, feature_extractor_weights_path=path)
        return {name: each[:, :8].tolist() for name, each in zip(names, extractor(pictures(2)), strict=True)}

    def lpips() -> list[float]:
        backbone = models.vgg16()
        own = {k: v for k, v in shapes(backbone).items() if k.startswith("features.")}
        backbone.load_state_dict(weights(own), strict=False)
        lpips_of.torchvision_load_pretrained_vgg16 = lambda: backbone
        lpips_of.load_state_dict_from_url = lambda *_, **__: heads((64, 128, 256, 512, 512))
        return lpips_of.SampleSimilarityLPIPS("lpips")(pictures(3), pictures(3, seed=1)).tolist()

    numbers = {
        "torch-fidelity": "0.4.0",
        "frechet": [float(fid(*frechet(seed))) for seed in SEEDS],
        "kernel": [float(kid(*kernel(seed))) for seed in SEEDS],
        "precision, recall": [[float(each) for each in prc(*manifold(seed))] for seed in SEEDS],
        "inception score": float(metric_isc.isc_features_to_metric(logits(), splits=1)["inception_score_mean"]),
        "inception features": inception(),
        "lpips, vgg16": lpips(),
    }
    STORED.write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
