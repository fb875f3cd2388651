"""Sample a trained cascade: prompts or a picture in, pictures out.

python sample.py "red heart" "slice of pizza" --num 4 --out out.png
python sample.py "red heart" --cascade runs/emoji --out pictures/
python sample.py --image low.png --cascade runs/emoji --out sharp.png
torchrun --nproc-per-node 8 -- sample.py --prompts-file prompts.txt --num 100 --shard-size 1000 --out shards/made
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from data.cli import run

SHIPPED = Path(__file__).parent / "cascade" / "shipped" / "emoji_tiny"
MAX_GRID = 1024


def main(
    prompts: Annotated[list[str] | None, typer.Argument(help="captions; none is unconditional")] = None,
    cascade: Annotated[Path, typer.Option(help="the --out of train.py", show_default="the one that ships")] = SHIPPED,
    num: Annotated[int, typer.Option(help="images of each prompt")] = 16,
    seed: Annotated[int, typer.Option(help="the same seed gives the same images")] = 0,
    out: Annotated[str, typer.Option(help="a .png for one grid, a folder/ for single files")] = "out.png",
    image: Annotated[Path | None, typer.Option(help="sharpen this picture with the super-resolution stages")] = None,
    label: Annotated[
        list[str] | None, typer.Option(help="class name or number, for class-conditional cascades")
    ] = None,
    size: Annotated[str, typer.Option(help="WIDTHxHEIGHT of the result, if not the cascade's own")] = "",
    first: Annotated[str, typer.Option("--from", help="first stage to use, with --image")] = "",
    last: Annotated[str, typer.Option("--until", help="last stage to use")] = "",
    steps: Annotated[list[str] | None, typer.Option(help="sampler steps: 8, or sr_64=8; may be repeated")] = None,
    guidance: Annotated[list[str] | None, typer.Option(help="guidance scale, 1 is off: 3, or base_16=3")] = None,
    aug_sigma: Annotated[list[str] | None, typer.Option(help="conditioning augmentation: sr_64=0.1")] = None,
    sampler: Annotated[list[str] | None, typer.Option(help="euler, heun, dpmpp_2m: heun, or base_16=heun")] = None,
    prompts_file: Annotated[
        Path | None, typer.Option(help="a prompt a line, besides those of the command line")
    ] = None,
    shard_size: Annotated[
        int, typer.Option(help="write webdataset shards of so many images into the folder --out; goes on where it was")
    ] = 0,
    stages_out: Annotated[bool, typer.Option(help="write every stage's picture, not only the last's")] = False,
    batch: Annotated[int, typer.Option(help="images computed together")] = 16,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, or auto")] = "auto",
    precision: Annotated[str, typer.Option(help="fp32 or bf16")] = "fp32",
    download: Annotated[bool, typer.Option("--download", help="let a missing text encoder be fetched")] = False,
) -> None:
    """Sample a trained cascade."""
    import torch

    from cascade.bulk import generate, local_device, place
    from cascade.cli import choose_start, class_numbers, lines_of, parse_size, settings_of, show
    from cascade.devices import choose_device
    from cascade.output import output_for
    from cascade.pictures import user_picture
    from cascade.pipeline import Cascade
    from cascade.request import Request

    if place()[1] > 1 and not shard_size:
        raise ValueError("several processes need --shard-size N: each writes shards of its own; or start one process")
    target = output_for(
        out if not shard_size else f"{out}/", stages=stages_out
    )  # first of all: nothing is computed for a folder we cannot write
    if precision not in ("fp32", "bf16"):
        raise ValueError(f"--precision {precision}: allowed are fp32 and bf16")
    device = choose_device(local_device(device))
    torch.set_flush_denormal(True)

    if image is not None:
        first = first or choose_start(cascade, image)
    model = Cascade.load(cascade, first=first, last=last, device=device, precision=precision, download=download)
    low_res = None
    if image is not None:
        contract = model.links[0].sidecar.contract
        if contract.low_res is None:
            raise ValueError(f"--image with --from {first}: a base stage takes no picture; start at a later stage")
        low_res = user_picture(image, contract.low_res, model.low_res_multiple)
    request = Request(
        num=num,
        seed=seed,
        prompts=(*(prompts or ()), *(lines_of(prompts_file) if prompts_file else ())),
        labels=class_numbers(model, label or []),
        low_res=low_res,
        size=parse_size(size),
        settings=settings_of(model, num_steps=steps, guidance_scale=guidance, aug_sigma=aug_sigma, sampler=sampler),
        batch=batch,
    )
    if shard_size:
        made = 0
        for made, path in enumerate(generate(model, request, Path(out), shard_size=shard_size), 1):  # noqa: B007
            print(path, flush=True)
        if not made:
            print(f"nothing to do: all shards of this process are in {out}", file=sys.stderr)
        return
    if target.is_grid and request.total > MAX_GRID:
        raise ValueError(
            f"--num: {request.total} images in one grid; at most {MAX_GRID}, or write single files with --out folder/"
        )
    for path in target.write(show(model.sample(request), request.total), model, request):
        print(path)


if __name__ == "__main__":
    run(main)
