"""Photographs upscaled with and without degradations in training: two stages of 32 -> 128 px, equal in all but `degrade`.

    python tests/bench/photographs.py PHOTOGRAPHS --out runs/photographs --images 16000

Crops of the photographs in a folder, of which every fourth photograph is held out whole, are packed; both stages are trained by
train.py, at the same time, a thread each, with the same pictures, seed and number of images. Then held-out crops are enlarged
from low_res that is clean, degraded as in training (stages/degrade.py: at half its strength, as trained, and stronger), and stored
by Pillow as JPEG: in four steps, and in one call, which is the mean. PSNR in dB; SWD of the finest Laplacian level, grain less the
truth's and sharpness over the truth's are cascade.judge's. The same command goes on where it was. OUT/INPUT-IMAGES.png are sheets
to look at: rows of low_res, bicubic, without, with, the one call of both, truth. OUT/without and OUT/with are cascades that
sample.py takes.
"""

import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
import typer
import yaml
from machine import describe, table
from PIL import Image
from spectral import photographed, stacked
from sr_psnr import mean_psnr
from torch import Tensor

from cascade.judge.grain import grain, sharpness
from cascade.judge.wasserstein import finest_estimate
from cascade.link import Link
from cascade.pipeline import Cascade
from data.batch import Batch, to_float, to_uint8
from data.cli import run
from data.errors import RunError
from data.files import replace_text
from data.line import say
from data.read.shards import read_split
from data.resize import downsample, upsample
from stages.degrade import degraded
from stages.degrade_config import DegradeConfig
from stages.draws import Draws
from stages.sample_config import SampleConfig
from stages.sampling import conditioned, noise_of, sample_alone
from stages.stage import Stage

ROOT = Path(__file__).parents[2]
STAGE, SIDE, LOW, CROP = "sr_128", 128, 32, 64
FORMS: dict[str, dict[str, float]] = {"without": {}, "with": {"probability": 0.8}}
STRENGTHS = {
    "half": DegradeConfig(probability=1, blur=1, noise=0.05, jpeg=70),
    "as trained": DegradeConfig(probability=1),
    "stronger": DegradeConfig(probability=1, blur=4, noise=0.2, jpeg=20),
}
QUALITIES = (75, 40)
CONTENDERS: dict[str, tuple[str, dict[str, float]]] = {
    "without": ("without", {}),
    "with": ("with", {}),
    "without, one call": ("without", {"num_steps": 1}),
    "with, one call": ("with", {"num_steps": 1}),
    "without, one call, aug_sigma 0.1": ("without", {"num_steps": 1, "aug_sigma": 0.1}),
    "with, one call, consistency 1": ("with", {"num_steps": 1, "consistency": 1.0}),
}
HEAD = ("low_res", "enlarged by", "PSNR", "SWD", "grain", "sharpness")
SHOWN = ("bicubic", "without", "with", "without, one call", "with, one call")
COLUMNS, BATCH = 8, 36


@dataclass(frozen=True, kw_only=True)
class Given:
    """Held-out crops as 8-bit pictures in [-1, 1]: truth (n, 3, SIDE, SIDE), and low_res (n, 3, LOW, LOW) by its name."""

    truth: Tensor
    low_res: dict[str, Tensor]
    batch: Batch


def main(
    photos: Annotated[Path, typer.Argument(help="folder of photographs")],
    out: Annotated[Path, typer.Option(help="folder for crops, shards, both runs, scores and sheets")],
    images: Annotated[int, typer.Option(help="of each training", min=80)] = 16_000,
) -> None:
    """Pack, train what is missing, enlarge, print the table."""
    prepare(photos, out)
    train(out, images)
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    given = held_out(out / "shards")
    models = {form: Cascade.load(out / form, first=STAGE).links[0] for form in FORMS}
    rows: list[list[Any]] = []
    for name, low_res in given.low_res.items():
        path = out / f"{name.replace(' ', '_')}-{images}.json"
        if not path.exists():
            replace_text(path, json.dumps(compared(models, given, low_res, path.with_suffix(".png"))))
        rows += [[name, *row] for row in json.loads(path.read_text())]
    say(f"{len(given.truth)} held-out crops, {images:,} images of training each; {describe()}")
    say(table(HEAD, [[*row[:2], *(f"{value:.3f}" for value in row[2:])] for row in rows]))


def compared(models: dict[str, Link], given: Given, low_res: Tensor, sheet: Path) -> list[list[Any]]:
    """A row for each contender: its name and its scores; and a sheet of them."""
    made = {"bicubic": rounded(upsample(low_res, (SIDE, SIDE)))}
    for contender, (form, changes) in CONTENDERS.items():
        link = models[form]
        made[contender] = enlarged(link.stage, link.settings.model_copy(update=changes), given, low_res)
    paint([F.interpolate(low_res, scale_factor=SIDE // LOW), *(made[name] for name in SHOWN), given.truth], sheet)
    return [[contender, *judged(pictures, given.truth)] for contender, pictures in made.items()]


def prepare(photos: Path, out: Path) -> None:
    """Crops, shards with a val split, and a YAML for each form; the base stage is there for the chain, and is not trained."""
    from data.pack.packer import pack
    from data.pack.settings import PackSettings

    if not (out / "shards" / "index.json").is_file():
        training, held = photographed(photos, SIDE, SIDE // 2)[0], photographed(photos, SIDE, SIDE)[1]
        for split, pictures in (("train", training), ("val", held)):
            (out / "crops" / split).mkdir(parents=True, exist_ok=True)
            for number, picture in enumerate(pictures):
                picture.save(out / "crops" / split / f"{number:04}.png")
        pack(out / "crops", out / "shards", PackSettings(size=SIDE), workers=0)
    for form, degrade in FORMS.items():
        (out / f"{form}.yaml").write_text(yaml.safe_dump(config_of(form, degrade)))


def config_of(form: str, degrade: dict[str, float]) -> dict[str, Any]:
    stage = {
        "kind": "super_res", "low_res": LOW, "resolution": SIDE, "crop": CROP, "degrade": degrade,
        "net": {"widths": [24, 48], "blocks": [1, 1], "patch": 2, "emb_dim": 64},
        "parametrisation": {"kind": "spectral", "bands": 3},
        "noise": {"sigma_data": 0.5, "mean": -1.2, "std": 1.2},
        "aug": {"max_sigma": 0.3},
        "train": {"batch": 8, "lr": 0.06, "warmup": 800, "flip": True, "ema": [800], "precision": "fp32", "workers": 0,
                  "log_every": 800, "save_every": 4000, "grid_every": 1_000_000, "val_images": 32},
        "sample": {"num_steps": 4, "sigma_max": 1, "sigma_min": 0.03, "aug_sigma": 0},
    }  # fmt: skip
    below = {"kind": "base", "resolution": LOW, "net": {"widths": [8], "blocks": [1]}}
    return {"name": form, "stages": {"base_32": below, STAGE: stage}}


def train(out: Path, images: int) -> None:
    """Both trainings side by side, each by the command that a user gives."""
    jobs = {}
    for form in FORMS:
        command = [sys.executable, str(ROOT / "train.py"), str(out / f"{form}.yaml"), STAGE, "--images", str(images)]
        command += ["--data", str(out / "shards"), "--out", str(out / form)]
        log = (out / f"{form}.log").open("a")
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        jobs[form] = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
    failed = [form for form, job in jobs.items() if job.wait()]
    if failed:
        raise RunError(f"training of {failed[0]}: failed, see {out / failed[0]}.log")


def held_out(shards: Path) -> Given:
    """The val split with every kind of low_res."""
    (batch,) = read_split(str(shards), "val", batch=1000, resolution=SIDE)
    truth, size = to_float(batch.image), (LOW, LOW)
    clean = rounded(downsample(truth, size))
    low_res = {"clean": clean}
    for name, config in STRENGTHS.items():
        low_res[name] = rounded(degraded(truth, size, config, Draws(batch, 0)))
    for quality in QUALITIES:
        low_res[f"JPEG {quality}"] = stored(clean, quality)
    return Given(truth=truth, low_res=low_res, batch=batch)


def rounded(pictures: Tensor) -> Tensor:
    return to_float(to_uint8(pictures.clamp(-1, 1)))


def stored(pictures: Tensor, quality: int) -> Tensor:
    """What is read back from JPEG files, with Pillow's own subsampling of colours."""
    read = []
    for pixels in to_uint8(pictures):
        file = io.BytesIO()
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=quality)
        read.append(Image.open(file).convert("RGB"))
    return to_float(stacked(read))


@torch.inference_mode()
def enlarged(stage: Stage, settings: SampleConfig, given: Given, low_res: Tensor) -> Tensor:
    """A sample of each picture, the same noise for all forms and inputs."""
    made = []
    for rows in torch.arange(len(low_res)).split(BATCH):
        below, noise = low_res[rows], noise_of("photographs", 0, given.batch.index[rows], "cpu")
        cond = conditioned(stage, given.batch[rows[0] : rows[-1] + 1].cond, below, settings, noise)
        made.append(sample_alone(stage, settings, cond, noise, (len(rows), 3, SIDE, SIDE), below))
    return rounded(torch.cat(made))


def judged(pictures: Tensor, truth: Tensor) -> list[float]:
    """PSNR, and three measures of looks against the true pictures."""
    ours, true = to_uint8(pictures), to_uint8(truth)
    swd = finest_estimate(true, ours, torch.Generator().manual_seed(0)).value
    grains = (grain(ours).nanmean() - grain(true).nanmean()).item()
    return [mean_psnr(pictures, truth), swd, grains, (sharpness(ours).mean() / sharpness(true).mean()).item()]


def paint(rows: list[Tensor], path: Path) -> None:
    """A sheet of some pictures, a column each."""
    chosen = torch.linspace(0, len(rows[0]) - 1, COLUMNS).long()
    lines = [torch.cat(list(to_uint8(row[chosen])), 2) for row in rows]
    Image.fromarray(torch.cat(lines, 1).permute(1, 2, 0).numpy()).save(path)


if __name__ == "__main__":
    run(main)
