"""What a control net learns in a short training: edges of emoji beside a shipped stage, whose weights stay as they are.

    python tests/bench/controlnet.py --out runs/controlnet --images 1600

Maps are Sobel edges (kornia) of the pictures of data/emoji64. It tells the loss of held-out pictures, with the same levels and
noise, of the frozen stage and of the control net with their own map, with that of another picture, and with none; and writes
OUT/grid.png: rows of map, frozen stage, control net at three scales, truth.
"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from cascade.config import load_config
from data.batch import Batch, Cond, to_float
from data.cli import run
from data.resize import downsample
from stages.bundle import load_bundle
from stages.sampling import conditioned, noise_of, sample_alone
from stages.stage import Stage
from stages.training.validate import held_out

ROOT = Path(__file__).parents[2]
PICTURES = ROOT / "data" / "emoji64"
SHIPPED = ROOT / "cascade" / "shipped" / "emoji_tiny"
SCALES = (0.0, 0.5, 1.0)


def main(
    out: Annotated[Path, typer.Option(help="folder for maps, shards, the run and the grid")],
    stage: Annotated[str, typer.Option(help="a stage of emoji_tiny")] = "sr_64",
    images: Annotated[int, typer.Option(help="length of the training")] = 1600,
    lr: Annotated[float, typer.Option(help="its rate")] = 0.03,
) -> None:
    """Write the maps, pack, train, measure, paint."""
    from data.pack.packer import pack
    from data.pack.settings import PackSettings
    from stages.training.loop import train
    from stages.training.runtime import Runtime

    if not (out / "shards" / "index.json").is_file():
        write_edges(PICTURES, out / "edges")
        settings = PackSettings(size=64, text_encoder="minilm", val=0.1, maps=str(out / "edges"))
        pack(PICTURES, out / "shards", settings, workers=0)
    key = f"stages.{stage}"
    lengths = {"images": images, "lr": lr, "warmup": images // 20, "ema": f"[{images // 10}]", "workers": 0}
    intervals = dict.fromkeys(("save_every", "grid_every"), images)
    overrides = [f"{key}.train.{name}={value}" for name, value in {**lengths, **intervals, "log_every": 160}.items()]
    overrides += [f"{key}.controlnet.base={SHIPPED / stage / 'bundle'}", f"{key}.cond.maps.channels=1"]
    config = load_config("emoji_tiny", overrides).stages[stage]
    runtime = Runtime(engine="local", rank=0, world=1, device=torch.device("cpu"))
    bundle = train(config, name=stage, data=str(out / "shards"), out=out / stage, runtime=runtime)
    controlled, frozen = load_bundle(bundle), load_bundle(SHIPPED / stage / "bundle")
    (batch,) = held_out(controlled.config, str(out / "shards"), 64)
    shuffled = batch.cond.given(maps=batch.cond.parts["maps"].value.roll(1, 0))
    for name, model, cond in (
        ("frozen", frozen, batch.cond),
        ("its own map", controlled, batch.cond),
        ("another's map", controlled, shuffled),
        ("no map", controlled, batch.cond.without("maps")),
    ):
        print(f"{name:14} {loss(model, batch, cond):.4f}")
    paint(controlled, batch[:6], out / "grid.png")


def write_edges(pictures: Path, folder: Path) -> None:
    """A gray picture of Sobel edges for each picture, on white where it is transparent."""
    import numpy as np
    from kornia.filters import sobel
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(pictures.glob("*.png")):
        with Image.open(path) as image:
            rgba = image.convert("RGBA")
        ground = Image.new("RGBA", rgba.size, "white")
        gray = np.asarray(Image.alpha_composite(ground, rgba).convert("L"), dtype=np.float32) / 255
        edges = sobel(torch.from_numpy(gray)[None, None])[0, 0].mul(3).clamp(0, 1)
        Image.fromarray((edges * 255).round().to(torch.uint8).numpy()).save(folder / path.name)


@torch.inference_mode()
def loss(model: Stage, batch: Batch, cond: Cond, seeds: int = 4) -> float:
    """Mean loss of pictures under a condition, over levels and noises of several seeds."""
    given = replace(batch, cond=cond)
    return torch.cat([model(given, seed).per_image for seed in range(seeds)]).mean().item()


@torch.inference_mode()
def paint(model: Stage, batch: Batch, path: Path) -> None:
    """Columns of pictures: map, samples at each scale, truth; all with the same noise."""
    from torchvision.utils import make_grid, save_image

    truth, noise = model.space.read(batch.image, model.config.size), noise_of("grid", 0, batch.index, "cpu")
    takes = model.config.takes
    below = None if takes is None else model.space.down(truth, takes)
    edges = downsample(to_float(batch.cond.parts["maps"].value), model.config.size)
    rows: list[Tensor] = [edges.expand(-1, 3, -1, -1)]
    for scale in SCALES:
        settings = model.config.sample.model_copy(update={"control_scale": scale})
        cond = conditioned(model, batch.cond, below, settings, noise)
        rows.append(sample_alone(model, settings, cond, noise, tuple(truth.shape), below))
    save_image(make_grid(torch.cat([*rows, truth]).clamp(-1, 1) / 2 + 0.5, nrow=len(batch)), path)


if __name__ == "__main__":
    run(main)
