"""Spectral preconditioning against EDM's: the same small networks, pictures, seeds and updates under each, at several lengths.

    python tests/bench/spectral.py --out runs/spectral --photos PHOTOGRAPHS --lengths 500 2000 6000 --seeds 1 --minutes 20

Sets: the emoji of data/emoji64 (every eighth held out), shapes drawn without end (other ones held out), and crops of the
photographs in a folder, of which every fourth photograph is held out whole. Stages: base_16 and sr_64 (16 -> 64 px). Each trial
writes OUT/NAME.json and a grid OUT/NAME.png (super-resolution: low_res, sample, truth) and is not repeated: the same command goes
on. One thread; --minutes are of processor time.

The loss is that of the averaged weights on held-out pictures *under EDM's weight* for all; `start`: of a network that answers zero.
PSNR over bicubic: of samples in four steps and of the one-call mean. Grain: tests/grain.py, of samples less that of the truth.
"""

import itertools
import json
import time
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from machine import describe, table
from PIL import Image
from sr_psnr import mean_psnr
from torch import Tensor

from data.batch import Batch, Cond, to_uint8
from data.cli import run
from data.shapes import draw, shape
from stages.build import build_stage
from stages.config import BaseConfig, SuperResConfig
from stages.diffusion.denoiser import weighted_error
from stages.sampling import noise_of, sample_alone
from stages.spectrum import num_bands, spectrum
from stages.stage import Stage
from stages.training.schedule import lr_at
from tests.grain import grain

ROOT = Path(__file__).parents[2]
SIDE, HELD = 64, 64
FORMS = {"edm": None, "spectral": "low_res", "spectral beside x0": "x0"}
HEAD = ("set", "stage", "images", "form", "seeds", "loss", "start", "over bicubic", "mean over bicubic", "grain")


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One training. index: which of all."""

    data: str
    stage: str
    images: int
    form: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.data}-{self.stage}-{self.images}-{self.form.replace(' ', '_')}-{self.seed}"


def main(
    out: Annotated[Path, typer.Option(help="folder for the results")],
    photos: Annotated[Path | None, typer.Option(help="folder of photographs; none: without them")] = None,
    lengths: Annotated[list[int], typer.Option(help="images of a training")] = [500, 2000, 6000],  # noqa: B006
    seeds: Annotated[int, typer.Option(help="trainings of each kind")] = 1,
    minutes: Annotated[float, typer.Option(help="of processor time, in all, for this call")] = 20.0,
) -> None:
    """Run what is missing, print the table."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    out.mkdir(parents=True, exist_ok=True)
    sets = {"emoji": emoji(), "shapes": shapes()} | ({"photos": crops(photos)} if photos else {})
    cells = itertools.product(range(seeds), (list(FORMS)[:2], list(FORMS)[2:]), lengths, ("sr_64", "base_16"), sets)
    for seed, forms, images, stage, data in cells:
        for form in forms:
            trial = Trial(data=data, stage=stage, images=images, form=form, seed=seed)
            path = out / f"{trial.name}.json"
            needed = not path.exists() and (
                stage == "sr_64" or form in list(FORMS)[:2]
            )  # without low_res the third is the second
            if needed and time.process_time() < 60 * minutes:
                path.write_text(json.dumps(result(trial, *sets[data], out / f"{trial.name}.png")))
    print(describe())
    print(table(HEAD, rows([json.loads(path.read_text()) for path in sorted(out.glob("*.json"))])))


def emoji() -> tuple[Tensor, Tensor]:
    """Training and held-out pictures, uint8 (n, 3, SIDE, SIDE)."""
    pictures = [Image.open(path).convert("RGB") for path in sorted((ROOT / "data" / "emoji64").glob("*.png"))]
    stack = stacked(pictures)
    held = torch.arange(len(stack)) % 8 == 7
    return stack[~held], stack[held]


def shapes() -> tuple[Tensor, Tensor]:
    return stacked([draw(shape(k), SIDE) for k in range(1000)]), stacked([draw(shape(k, 1), SIDE) for k in range(HELD)])


def crops(folder: Path) -> tuple[Tensor, Tensor]:
    """Crops of SIDE px; of the held-out photographs in a random order."""
    training, held = photographed(folder, SIDE, SIDE)
    order = torch.randperm(len(held), generator=torch.Generator().manual_seed(0))
    return stacked(training), stacked([held[k] for k in order])


def photographed(folder: Path, side: int, step: int) -> tuple[list[Image.Image], list[Image.Image]]:
    """Crops of `side` px every `step` px of photographs shrunk by a whole number until their short side is at most 500 px, for
    training and held out: every fourth photograph is held out whole."""
    found: tuple[list[Image.Image], list[Image.Image]] = ([], [])
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp"))
    for number, path in enumerate(paths):
        photo = Image.open(path).convert("RGB")
        photo = photo.reduce(-(-min(photo.size) // 500))
        corners = itertools.product(range(0, photo.width - side, step), range(0, photo.height - side, step))
        found[number % 4 == 3].extend(photo.crop((x, y, x + side, y + side)) for x, y in corners)
    return found


def stacked(pictures: list[Image.Image]) -> Tensor:
    return torch.stack([torch.from_numpy(np.array(picture)).permute(2, 0, 1) for picture in pictures])


def config_of(trial: Trial, pictures: Tensor) -> Any:
    """A small stage with the statistics of its data, under one form."""
    train = {
        "images": trial.images, "warmup": trial.images // 10, "ema": [max(trial.images // 12, 1)], "precision": "fp32",
        "lr": 0.06, "batch": 16 if trial.stage == "base_16" else 8,
    }  # fmt: skip
    if trial.stage == "base_16":
        net = {"widths": (32, 64), "blocks": (1, 1), "emb_dim": 64}
        noise = {"mean": -0.4, "std": 1.5}
        config: Any = BaseConfig(resolution=16, net=net, noise=noise, train=train, sample={"sigma_min": 0.05})
    else:
        net = {"widths": (24, 48), "blocks": (1, 1), "emb_dim": 64, "patch": 2}
        sample = {"num_steps": 4, "sigma_max": 2, "sigma_min": 0.1, "aug_sigma": 0.05}
        config = SuperResConfig(resolution=64, low_res=16, net=net, train=train, sample=sample, aug={"max_sigma": 0.5})
    x0 = config.space.build().read(pictures, config.size)
    values = config.model_dump()
    values["noise"]["sigma_data"] = x0.square().mean().sqrt().item()
    if trial.stage == "sr_64":
        lost = x0 - config.space.build().up(config.space.build().down(x0, (16, 16)), (64, 64))
        values["low_res_sigma"] = lost.square().mean().sqrt().item()
    if beside := FORMS[trial.form]:
        measured = spectrum(config, [pictures], bands=num_bands(config.resolution))
        values["parametrisation"] = measured.model_dump() | {"beside": beside}
    return type(config).model_validate(values)


def result(trial: Trial, pictures: Tensor, held: Tensor, grid: Path) -> dict[str, Any]:
    """Train, then judge."""
    config, began = config_of(trial, pictures), time.process_time()
    torch.manual_seed(trial.seed)
    stage = build_stage(config)
    ema = deepcopy(stage).eval()
    start = judged_loss(ema, held)
    settings = config.train
    optimizer = torch.optim.AdamW(stage.parameters(), lr=settings.lr, betas=settings.betas, weight_decay=0)
    for nimg in range(0, settings.images, settings.batch):
        index = torch.arange(nimg, nimg + settings.batch)
        chosen = torch.randint(len(pictures), (settings.batch,), generator=torch.Generator().manual_seed(nimg + 7))
        for group in optimizer.param_groups:
            group["lr"] = lr_at(settings, nimg)
        stage(batch_of(pictures[chosen], index), seed=trial.seed).loss.backward()
        torch.nn.utils.clip_grad_norm_(stage.parameters(), settings.clip)
        optimizer.step()
        optimizer.zero_grad()
        share = 0.5 ** (settings.batch / min(settings.ema[0], max(nimg, 1) / 3 + settings.batch))
        with torch.no_grad():
            for mean, weight in zip(ema.parameters(), stage.parameters(), strict=True):
                mean.lerp_(weight, 1 - share)
    trained_s = time.process_time() - began
    return (
        vars(trial) | {"start": start, "loss": judged_loss(ema, held), "trained_s": trained_s} | judged(ema, held, grid)
    )


def batch_of(images: Tensor, index: Tensor) -> Batch:
    return Batch(image=images, cond=Cond.empty(len(images)), index=index, keys=tuple(str(k) for k in index.tolist()))


@torch.no_grad()
def judged_loss(stage: Stage, held: Tensor) -> float:
    """The loss on held-out pictures under EDM's weight, whatever the stage's own."""
    config = stage.config
    edm = config.model_validate(config.model_dump() | {"parametrisation": {"kind": "edm"}}).preconditioning
    losses = []

    class Judge:
        """The stage's objective with EDM's weight."""

        def levels(self, stage: Any, u: Tensor) -> Any:
            return config.train.objective.build().levels(stage, u)

        def loss(self, stage: Any, x0: Tensor, cond: Cond, levels: Any, draws: Any) -> Tensor:
            x = x0 + levels.sigma[:, None, None, None] * draws.noise("eps", x0.shape)
            x0_hat = stage.denoise(x, levels.sigma, cond).x0_hat
            return weighted_error(x0_hat, x0, edm.weight(levels.sigma, cond.value("aug")))

    for repeat in range(2):
        batch = batch_of(held[:HELD], torch.arange(len(held[:HELD])) + 10**6 * (repeat + 1))
        losses.append(stage(batch, 0, None, Judge()).per_image)
    return torch.cat(losses).mean().item()


@torch.inference_mode()
def judged(stage: Stage, held: Tensor, grid: Path) -> dict[str, float]:
    """PSNR and grain of samples; a grid of eight."""
    config, index, num = stage.config, torch.arange(32), 32
    truth = stage.space.read(held[:num], config.size)
    noise, cond = noise_of("trial", 0, index[: len(truth)], "cpu"), Cond.empty(len(truth))
    found: dict[str, float] = {}
    shown = [truth]
    if config.takes is not None:
        low_res = stage.enlarge(stage.space.down(truth, config.takes))
        bicubic = mean_psnr(low_res.clamp(-1, 1), truth)
        level = torch.full((len(truth),), config.sample.aug_sigma)
        cond = cond.given(low_res=low_res + level[0] * noise("aug", truth.shape), aug=level)
        most = torch.full((len(truth),), 80.0)
        zero = cond.given(low_res=low_res, aug=torch.zeros(len(truth)))
        mean = stage.denoise(low_res + 80 * noise("start", truth.shape), most, zero).x0_hat
        found["mean over bicubic"] = mean_psnr(mean.clamp(-1, 1), truth) - bicubic
        shown = [low_res, truth]
    samples = sample_alone(stage, config.sample, cond, noise, truth.shape)
    if config.takes is not None:
        found["over bicubic"] = mean_psnr(samples, truth) - bicubic
    found["grain"] = grain(samples) - grain(truth)
    shown.insert(len(shown) - 1, samples)
    rows = torch.cat([torch.cat(list(to_uint8(part[:8].clamp(-1, 1))), 2) for part in shown], 1)
    Image.fromarray(rows.permute(1, 2, 0).numpy()).save(grid)
    return found


def rows(results: list[dict[str, Any]]) -> list[list[str]]:
    """A row a kind of trial: means over its seeds, +- half the range."""
    kinds: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for each in sorted(results, key=lambda each: (each["data"], each["stage"], each["images"], each["form"])):
        kinds.setdefault(tuple(each[key] for key in ("data", "stage", "images", "form")), []).append(each)
    return [
        [*(str(part) for part in kind), str(len(same)), *(shown(same, key) for key in HEAD[5:])]
        for kind, same in kinds.items()
    ]


def shown(same: list[dict[str, Any]], key: str) -> str:
    values = [each[key] for each in same if key in each]
    if not values:
        return "-"
    spread = f" +- {(max(values) - min(values)) / 2:.3f}" if len(values) > 1 else ""
    return f"{sum(values) / len(values):.3f}{spread}"


if __name__ == "__main__":
    run(main)
