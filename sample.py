"""Sample a trained cascade: prompts or a picture in, pictures out.

python sample.py "red heart" "slice of pizza" --num 4 --out out.png
python sample.py "red heart" --cascade runs/emoji --out pictures/
python sample.py "red heart" "slice of pizza" --label all --cascade runs/styles --out table.png
python sample.py --image photo.jpg --cascade runs/emoji --out larger.png
torchrun --nproc-per-node 8 -- sample.py --prompts-file prompts.txt --num 100 --shard-size 1000 --out shards/made
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from data.cli import run
from stages.diffusion.samplers import SAMPLERS
from stages.tools.memory_reuse import keep_freed_memory

SHIPPED = Path(__file__).parent / "cascade" / "shipped" / "emoji_styles"
MAX_GRID = 1024
WITH_AGAIN = ("again", "cascade", "image", "mask", "maps", "out", "overwrite", "device", "download")


def main(
    ctx: typer.Context,
    prompts: Annotated[list[str] | None, typer.Argument(help="captions; none is unconditional")] = None,
    cascade: Annotated[Path, typer.Option(help="the --out of train.py", show_default="the one that ships")] = SHIPPED,
    num: Annotated[
        int | None,
        typer.Option(
            help="images of each prompt",
            show_default="16; with --image, several --map, or prompts with several labels, 1",
            metavar="INTEGER",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="the same seed gives the same images")] = 0,
    pick: Annotated[list[str] | None, typer.Option(help="only these images, by number: 3, or 0-15,20")] = None,
    out: Annotated[str, typer.Option(help="a .png for one grid, a folder/ for single files")] = "out.png",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace what another request left in --out")] = False,
    image: Annotated[
        list[Path] | None, typer.Option(help="make this picture larger, or all of a folder; may be repeated")
    ] = None,
    fit: Annotated[
        bool, typer.Option("--fit", help="shrink --image first, to what its first stage was trained to enlarge")
    ] = False,
    mask: Annotated[
        Path | None, typer.Option(help="paint over --image where this picture of its size is white, keep the rest")
    ] = None,
    maps: Annotated[
        list[Path] | None,
        typer.Option(
            "--map",
            help="what is where: this picture, or all of a folder, for a cascade trained with maps; may be repeated",
        ),
    ] = None,
    strength: Annotated[
        list[str] | None,
        typer.Option(help="above 0, to 1: paint over --image from so much noise; 0.6, or base_16=0.6"),
    ] = None,
    resample: Annotated[
        list[str] | None, typer.Option(help="with --mask: make each step so often, so that old and new agree better")
    ] = None,
    invert: Annotated[
        str | None, typer.Option(help="paint over --image from the noise that gives it under this caption of it")
    ] = None,
    invert_label: Annotated[list[str] | None, typer.Option(help="the same, under this class of it")] = None,
    image_stage: Annotated[
        str, typer.Option(help="which stage's picture it is that is painted over", show_default="the last's")
    ] = "",
    label: Annotated[
        list[str] | None, typer.Option(help="class name or number, or `all`; may be repeated, each with every prompt")
    ] = None,
    size: Annotated[str, typer.Option(help="WIDTHxHEIGHT of the result, if not the cascade's own")] = "",
    first: Annotated[str, typer.Option("--from", help="first stage to use, with --image")] = "",
    last: Annotated[str, typer.Option("--until", help="last stage to use")] = "",
    steps: Annotated[list[str] | None, typer.Option(help="sampler steps: 8, or sr_64=8; may be repeated")] = None,
    guidance: Annotated[
        list[str] | None, typer.Option(help="guidance scale, 1 is off: 3, or base_16=3; 1,2,4 makes a picture of each")
    ] = None,
    guidance_text: Annotated[list[str] | None, typer.Option(help="guidance scale of the prompt, if another")] = None,
    guidance_label: Annotated[list[str] | None, typer.Option(help="guidance scale of the label, if another")] = None,
    negative: Annotated[
        str,
        typer.Option(help="a text that guidance leads away from; leave the noun of the prompt out of it"),
    ] = "",
    also: Annotated[
        list[str] | None, typer.Option(help="a further text of every prompt, with its weight: hat:0.5; may be repeated")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="any other setting: rho=5, or base_16.rho=5; may be repeated")
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(help="as many steps as the networks can do in so many seconds, at most the stages' own"),
    ] = None,
    aug_sigma: Annotated[list[str] | None, typer.Option(help="conditioning augmentation: sr_64=0.1")] = None,
    sampler: Annotated[list[str] | None, typer.Option(help=f"{', '.join(SAMPLERS)}: heun, or base_16=heun")] = None,
    consistency: Annotated[
        list[str] | None,
        typer.Option(
            help="0 to 1: how far a larger picture must shrink to the smaller",
            show_default="0; with --image, 1, but 0 in a stage trained with degradations",
        ),
    ] = None,
    colour: Annotated[
        list[str] | None, typer.Option(help="0 to 1: how far its colours are moved to those of the smaller")
    ] = None,
    prompts_file: Annotated[
        Path | None, typer.Option(help="a prompt a line, besides those of the command line; - is what is piped in")
    ] = None,
    shard_size: Annotated[
        int, typer.Option(help="write webdataset shards of so many images into the folder --out; goes on where it was")
    ] = 0,
    again: Annotated[
        Path | None,
        typer.Option(help="make this picture of ours again, as its metadata say; no other settings beside it"),
    ] = None,
    uncertainty: Annotated[
        bool,
        typer.Option(
            "--uncertainty", help="write beside each picture how unsure its stage was of each pixel, if it can"
        ),
    ] = False,
    stages_out: Annotated[bool, typer.Option(help="write every stage's picture, not only the last's")] = False,
    batch: Annotated[int, typer.Option(help="images computed together")] = 16,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, or auto")] = "auto",
    precision: Annotated[str, typer.Option(help="fp32 or bf16")] = "fp32",
    download: Annotated[bool, typer.Option("--download", help="let a missing text encoder be fetched")] = False,
) -> None:
    """Sample a trained cascade."""
    import torch

    from cascade.cli import (
        check_options,
        class_numbers,
        guided,
        lines_of,
        numbers_of,
        parse_size,
        say,
        settings_of,
        strips,
        table,
        weighted,
        with_said,
    )  # fmt: skip
    from cascade.engine.devices import choose_device
    from cascade.output.bulk import generate, local_device, rank_and_world
    from cascade.output.destinations import output_for
    from cascade.output.given import given_files
    from cascade.output.maps import check_proportions, map_files, maps_of
    from cascade.output.saving import save_again, save_all
    from cascade.output.sources import pixels_of
    from cascade.output.upscale import Upscaling
    from cascade.pipeline import Cascade
    from cascade.request import Request
    from cascade.source import Source
    from cascade.uncertainty import check_able

    if not out:
        raise ValueError("--out: is empty; name a .png for one grid, or a folder/ for single files")
    if again is not None:
        check_options(ctx, "--again", WITH_AGAIN)
    world = rank_and_world()[1]
    if world > 1 and not shard_size:
        raise ValueError("several processes need --shard-size N: each writes shards of its own; or start one process")
    target = output_for(
        out if not shard_size else f"{out}/", stages=stages_out, overwrite=overwrite, uncertainty=uncertainty
    )  # checked first, so that nothing is computed for a folder that cannot be written
    if precision not in ("fp32", "bf16"):
        raise ValueError(f"--precision {precision}: allowed are fp32 and bf16")
    device = choose_device(local_device(device))
    torch.set_flush_denormal(True)
    keep_freed_memory()

    files = given_files(image or [], lambda line: say(line, sys.stderr))
    mapped = map_files(maps or [])
    if again is not None:
        if len(files) > 1:
            raise ValueError(f"--again: {len(files)} pictures with --image; give the one that {again} was made from")
        return save_again(again, target, cascade, files, device=device, download=download, mask=mask, map_files=mapped)
    if world > 1 and str(prompts_file) == "-":
        raise ValueError("--prompts-file -: several processes cannot all read what is piped in; name a file")
    is_source = any(option for option in (mask, strength, resample, image_stage, invert, invert_label))
    if is_source and len(files) != 1:
        raise ValueError(f"--mask, --strength, --invert: paint over one picture; {len(files)} are given with --image")
    upscaling = Upscaling.of(files, cascade, first=first, fit=fit) if files and not is_source else None
    first = upscaling.first if upscaling else first
    model = Cascade.load(cascade, first=first, last=last, device=device, precision=precision, download=download)
    if uncertainty:
        check_able(model.links[-1:], model.links, "--uncertainty")
    captions = (*(prompts or ()), *(lines_of(prompts_file) if prompts_file else ()))
    labels = class_numbers(model, label or [])
    guidance, scales = guided(model, guidance)
    if scales and len(files) > 1:
        raise ValueError(f"--guidance: several scales for {len(files)} pictures; give one picture, or one scale")
    is_table = len(files) < 2 and len(labels) > 1 and bool(captions)
    if is_table:
        captions, labels = table(captions, labels)
    captions, labels, scales = strips(captions, labels, scales)
    chosen = settings_of(
        model,
        num_steps=steps,
        guidance_scale=guidance,
        guidance_text=guidance_text,
        guidance_label=guidance_label,
        aug_sigma=aug_sigma,
        sampler=sampler,
        consistency=consistency,
        colour=colour,
        strength=strength,
        resample=resample,
    )
    source = None
    if is_source:
        pixels, painted = pixels_of(model, files[0], mask, stage=image_stage, fit=fit)
        source = Source(
            images=pixels,
            mask=painted,
            stage=image_stage,
            inverted=bool(invert or invert_label),
            prompts=(invert,) if invert else (),
            labels=class_numbers(model, invert_label or [], "--invert-label"),
        )
    request = Request(
        num=num if num is not None else 1 if files or is_table or scales or len(mapped) > 1 else 16,
        seed=seed,
        prompts=captions,
        labels=labels,
        size=parse_size(size),
        settings=with_said(model, chosen, settings or [], scales),
        source=source,
        maps=maps_of(mapped, model.conditions),
        batch=batch,
        negative=(negative,) if negative else (),
        composed=(weighted(also),) if also else (),
        guidance=scales,
        same_noise=bool(scales),
        seconds=seconds,
        uncertainty=uncertainty,
    )
    picked = numbers_of(pick or [])
    if shard_size:
        if files or picked or overwrite or uncertainty or seconds is not None:
            raise ValueError(
                "--shard-size: makes all pictures of prompts or labels with the same steps; "
                "leave --image, --pick, --overwrite, --uncertainty, --seconds out"
            )
        num_shards = 0
        for num_shards, path in enumerate(generate(model, request, Path(out), shard_size=shard_size), 1):  # noqa: B007
            say(path)
        if not num_shards:
            say(f"nothing to do: all shards of this process are in {out}", sys.stderr)
        return
    if upscaling:
        jobs = upscaling.jobs(model, request, target, picked, mapped)
    else:
        plan = model.resolve(request)
        check_proportions(plan.request.maps, plan.sizes[-1], "--map")
        target.check_names(plan)
        target.check_given(plan, [*(file.path for file in files), *([mask] if mask else []), *mapped])
        model.check(plan.picked(picked))
        jobs = [(target, lambda: plan)]
    num_images = len(picked) or (upscaling.num(request) if upscaling else request.total)
    if target.is_grid and num_images > MAX_GRID:
        raise ValueError(
            f"--num: {num_images} images in one grid; at most {MAX_GRID}, or write single files with --out folder/"
        )
    save_all(model, jobs, pick=picked)


if __name__ == "__main__":
    run(main)
