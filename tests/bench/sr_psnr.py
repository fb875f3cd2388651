"""How much a super-resolution stage gains over bicubic on held-out real pictures: mean PSNR in dB of single samples.

    python tests/bench/sr_psnr.py runs/emoji sr_64 --data shards/emoji_64

low_res is THE downsample of the val split's pictures, aug_sigma is 0 and guidance off, one sample a picture with the manifest's
sampler and steps (or --steps), clipped and rounded to 8 bit. A sample from p(x0 | low_res) scores below its mean: perfect
samples lose 3 dB to the mean. So the one-call mean, E[x0 | low_res] of the same network, stands beside it. The same samples are
also measured with the corrections by low_res (stages/consistency.py).
"""

from pathlib import Path
from typing import Annotated

import torch
import typer
from kornia.metrics import psnr
from torch import Tensor

from data.batch import to_float, to_uint8
from data.cli import run
from data.read.shards import read_split
from data.resize import downsample


def mean_psnr(images: Tensor, truth: Tensor) -> float:
    """Mean over pictures of PSNR in dB, on 8-bit levels."""
    pairs = zip(to_float(to_uint8(images)), truth, strict=True)
    return torch.stack([psnr(a, b, 2.0) for a, b in pairs]).mean().item()


def main(
    cascade: Annotated[Path, typer.Argument(help="the --out of train.py")],
    stage: Annotated[str, typer.Argument(help="a super-resolution stage")],
    data: Annotated[Path, typer.Option(help="shards with a val split")],
    limit: Annotated[int, typer.Option(help="pictures at the most")] = 128,
    steps: Annotated[int, typer.Option(help="sampler steps; 0: the manifest's")] = 0,
    sampler: Annotated[str, typer.Option(help="empty: the manifest's")] = "",
    precision: Annotated[str, typer.Option(help="fp32 or bf16")] = "fp32",
) -> None:
    from cascade.pipeline import Cascade
    from stages.kinds.super_res import SuperResStage
    from stages.sampling import conditioned, noise_of, sample_alone

    torch.set_flush_denormal(True)
    link = Cascade.load(cascade, first=stage, last=stage, precision=precision).links[0]
    model, config = link.stage, link.sidecar.config
    if not isinstance(model, SuperResStage):
        raise ValueError(f"{stage} is a base stage; give a super-resolution stage")
    changes = {"num_steps": steps or link.settings.num_steps, "sampler": sampler or link.settings.sampler}
    settings = link.settings.model_copy(
        update={"guidance_scale": 1.0, "aug_sigma": 0.0, "consistency": 0.0, "colour": 0.0} | changes
    )
    size, low = (config.resolution,) * 2, (model.config.low_res,) * 2
    scores: dict[str, list[tuple[float, int]]] = {}
    text = config.cond.text.tokens if config.cond.text else 0
    for batch in read_split(data, "val", batch=16, resolution=config.resolution, text_tokens=text, limit=limit):
        truth = downsample(to_float(batch.image), size)
        low_res = to_float(to_uint8(downsample(truth, low)))
        draw = noise_of(stage, 0, batch.index, "cpu")
        cond, shape = conditioned(model, batch.cond, low_res, settings, draw), truth.shape
        variants: dict[str, dict[str, float]] = {
            f"samples ({settings.sampler}, {settings.num_steps} steps)": {},
            "samples, consistency 0.5": {"consistency": 0.5},
            "samples, consistency 1": {"consistency": 1.0},
            "samples, at every call, too": {"consistency": 1.0, "consistency_sigma": 1e9},
            "samples, colour 1": {"colour": 1.0},
            "one-call mean": {"num_steps": 1},
            "one-call mean, consistency 1": {"num_steps": 1, "consistency": 1.0},
        }
        contenders = {"bicubic": model.enlarge(low_res)} | {
            name: sample_alone(model, settings.model_copy(update=changed), cond, draw, shape, low_res)
            for name, changed in variants.items()
        }
        for name, images in contenders.items():
            scores.setdefault(name, []).append((mean_psnr(images, truth), len(batch)))
    num = sum(n for _, n in scores["bicubic"])
    print(f"{stage} at {link.sidecar.provenance.nimg:,} images, {num} val pictures, {low[0]} -> {size[0]} px")
    for name, parts in scores.items():
        print(f"{name:32} {sum(score * n for score, n in parts) / sum(n for _, n in parts):6.2f} dB")


if __name__ == "__main__":
    run(main)
