"""`python -m data.world DST`: the command line of `data.world.scenes.write_folder`."""

import shutil
from pathlib import Path
from typing import Annotated

import typer

from data.cli import run
from data.line import say
from data.world.reader import MIN_SIZE
from data.world.scenes import RADII, RELATIONS, Show, write_folder


def main(
    dst: Annotated[Path, typer.Argument(help="folder for the pictures and metadata.jsonl: new or empty")],
    num: Annotated[int, typer.Option(min=1, help="pictures")] = 1_000,
    size: Annotated[int, typer.Option(help="side in px")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="another seed gives other scenes")] = 0,
    show: Annotated[Show, typer.Option(help="of combinations: those to train on, to test on, or all")] = "all",
    objects: Annotated[
        list[int] | None, typer.Option(help="scenes of so many objects; may be repeated [default: all]")
    ] = None,
    relation: Annotated[
        list[str] | None, typer.Option(help="captions that tell this relation, or none; may be repeated [default: all]")
    ] = None,
) -> None:
    """Draw scenes whose captions can be checked exactly: one to three objects in eight colours, alone or in a relation."""
    if size < MIN_SIZE:
        raise ValueError(f"--size {size}: scenes are read from {MIN_SIZE} px on")
    if dst.is_file() or (dst.is_dir() and any(dst.iterdir())):
        raise ValueError(f"{dst} is not an empty folder; name a new folder, or delete it first")
    part = dst.with_name(f"{dst.name}.part")  # a folder that lacks its captions would be packed without them
    shutil.rmtree(part, ignore_errors=True)
    try:
        write_folder(
            part,
            num,
            size,
            seed,
            show=show,
            objects=objects or tuple(RADII),
            relations=relation or ("none", *RELATIONS),
        )
        part.replace(dst)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    say(f"{dst}: {num:,} pictures of {size} px")


if __name__ == "__main__":
    run(main)
