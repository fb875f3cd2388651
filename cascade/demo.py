"""The first minutes: packs the emoji that ship with the project, trains a tiny cascade on them, samples a grid.

    python -m cascade.demo [--out runs/demo]

Nothing is special here: the same functions as `python -m data.pack`, `train.py` and `sample.py`, with the preset's recipe made
short: fewer updates want a higher learning rate and averages over fewer images (stages/README.md). Run it again with more
--base-images and --sr-images and it goes on where it stopped.
"""

from pathlib import Path
from typing import Annotated

import typer

from data.cli import run

EMOJI = Path(__file__).parents[1] / "data" / "emoji64"
PROMPTS = ("red heart", "grinning face", "blue square", "red apple")

SHORT = ("lr=0.08", "ema=[1000]")


def main(
    out: Annotated[Path, typer.Option(help="folder for shards, runs and the picture")] = Path("runs/demo"),
    base_images: Annotated[int, typer.Option(help="images the base stage sees")] = 13_000,
    sr_images: Annotated[int, typer.Option(help="images the super-resolution stage sees")] = 6_000,
) -> None:
    """Pack, train two tiny stages, sample: a picture within minutes of cloning."""
    import time

    import torch

    from data.cpus import Use
    from data.packer import Settings, pack

    from .cli import show
    from .config import load_config
    from .manifest import write_manifest
    from .output import output_for
    from .pipeline import Cascade
    from .request import Request

    started, since = time.monotonic(), Use.now()
    torch.set_flush_denormal(True)
    target = output_for(str(out / "demo.png"), stages=False, overwrite=True)
    shards = out / "shards"
    if not (shards / "index.json").exists():
        print(f"1/4 packing {EMOJI.name} into {shards}")
        pack(EMOJI, shards, Settings(size=64, text_encoder="minilm", val=0.05))
    seen = {"base_16": base_images, "sr_64": sr_images}
    changes = [f"{name}.train.{each}" for name in seen for each in (f"images={seen[name]}", *SHORT)]
    config = load_config("emoji_tiny", [f"stages.{change}" for change in changes])
    write_manifest(config, out)

    from stages.training.loop import train
    from stages.training.place import Place
    from stages.training.threads import settle_threads

    for number, (name, stage) in enumerate(config.stages.items(), 2):
        print(f"{number}/4 training {name}: {seen[name]:,} images")
        place = Place(
            engine="local", rank=0, world=1, device=torch.device("cuda" if torch.cuda.is_available() else "cpu")
        )
        if place.device.type == "cpu":
            settle_threads(out / name, since)
        train(stage, name=name, data=shards, out=out / name, place=place)
    print(f"4/4 sampling {', '.join(PROMPTS)}")
    model = Cascade.load(out, device=place.device)
    request = Request(prompts=PROMPTS, num=8, batch=32)
    for path in target.write(show(model.sample(request), request.total), model, request):
        print(f"{path}: a row each of {', '.join(PROMPTS)}; {time.monotonic() - started:.0f} s in all")


if __name__ == "__main__":
    run(main)
