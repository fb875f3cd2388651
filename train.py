"""Train one stage of a cascade on its own shards.

    python train.py emoji base_16 --data shards/emoji_64 --out runs/emoji
    deepspeed --num_gpus 8 train.py ...      torchrun --nproc-per-node 8 train.py ...

The same command resumes. Overrides follow as dotted keys: stages.base_16.train.lr=3e-3
"""

import os
from pathlib import Path
from typing import Annotated

import typer

from data.cli import run


def main(
    cascade: Annotated[str, typer.Argument(help="a shipped cascade's name, or a YAML file")],
    stage: Annotated[str, typer.Argument(help="the stage to train")],
    overrides: Annotated[list[str] | None, typer.Argument(help="dotted overrides, stages.STAGE.train.lr=3e-4")] = None,
    data: Annotated[Path | None, typer.Option(help="folder of shards, from data.pack")] = None,
    out: Annotated[Path | None, typer.Option(help="folder of the cascade; the run goes to OUT/STAGE")] = None,
    images: Annotated[int, typer.Option(help="train until so many images were seen; 0: as in the config")] = 0,
    engine: Annotated[str, typer.Option(help="deepspeed, local, or auto: deepspeed under a launcher")] = "auto",
    zero: Annotated[int, typer.Option(help="DeepSpeed's ZeRO stage, 0 or 1")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto")] = "auto",
    dry_run: Annotated[bool, typer.Option(help="print parameters, FLOPs and memory, train nothing")] = False,
    local_rank: Annotated[int, typer.Option("--local_rank", "--local-rank", hidden=True)] = 0,
) -> None:
    """Train one stage of a cascade; run the same command again to resume."""
    from cascade.config import load_config, stage_of

    if images:
        overrides = [*(overrides or []), f"stages.{stage}.train.images={images}"]
    stage_of(load_config(cascade), stage)
    config = load_config(cascade, overrides)
    if dry_run:
        from cascade.plan import print_plan

        return print_plan(config, stage)
    if data is None or out is None:
        raise ValueError("train.py needs --data SHARDS (from data.pack) and --out FOLDER")

    from cascade.manifest import check_folder, write_manifest
    from stages.training.loop import train

    place = find_place(engine, device, zero)
    wanted = stage_of(config, stage)
    check_folder(config, out)
    bundle = train(
        wanted, name=stage, data=data, out=out / stage, place=place, checked=lambda: write_manifest(config, out)
    )
    if place.rank == 0:
        print(f"bundle: {bundle}")


def find_place(engine: str, device: str, zero: int):
    """Which process this is, by the launcher's environment, and where it computes."""
    import torch

    from stages.training.loop import Place

    world = int(os.environ.get("WORLD_SIZE", "1"))
    if engine == "auto":
        engine = "deepspeed" if "WORLD_SIZE" in os.environ else "local"
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"--device {device}: allowed are cpu, cuda and auto")
    if engine not in ("deepspeed", "local"):
        raise ValueError(f"--engine {engine}: allowed are deepspeed, local and auto")
    if engine == "local" and world > 1:
        raise ValueError(f"--engine local is one process, the launcher started {world}; use --engine deepspeed")
    if zero not in (0, 1) or (zero and engine == "local"):
        raise ValueError(f"--zero {zero} with --engine {engine}: allowed are 0 and 1, and 1 needs --engine deepspeed")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    where = torch.device(device, int(os.environ.get("LOCAL_RANK", "0"))) if device == "cuda" else torch.device(device)
    if where.type == "cuda":
        if not torch.cuda.is_available():
            raise ValueError("--device cuda: no GPU is visible to torch; use --device cpu")
        torch.cuda.set_device(where)
    else:
        torch.set_flush_denormal(True)  # a zero-initialised gain makes denormals, 30 times slower on a CPU
    return Place(engine=engine, rank=int(os.environ.get("RANK", "0")), world=world, device=where, zero=zero)


if __name__ == "__main__":
    run(main)
