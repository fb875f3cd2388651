"""`python -m data.styles DST`: the command line of `data.styles.folder`."""

from pathlib import Path
from typing import Annotated

import typer

from data.cli import run
from data.line import say
from data.styles.folder import LICENCES, caption, make, read_table, told


def main(
    dst: Annotated[Path, typer.Argument(help="folder for the pictures, metadata.jsonl and NOTICE")],
    size: Annotated[int, typer.Option(help="side in px")] = 256,
    captions: Annotated[
        Path | None,
        typer.Option(help="also make this folder: the same pictures (hard links) with several captions each"),
    ] = None,
    packages: Annotated[
        Path | None, typer.Option(help="folder with the tarballs; what it lacks is downloaded into it, and stays")
    ] = None,
) -> None:
    """Make the pictures of the cascade emoji_styles: one thing in five drawing styles. Needs npm and resvg-py (extra: styles)."""
    if captions and captions.absolute() == dst.absolute():
        raise ValueError(f"--captions {captions} is DST; name another folder")
    made = {dst: make(dst, size, packages)}
    if captions:
        made[captions] = caption(dst, captions)
    for folder, new in made.items():
        say(f"{folder}: {len(read_table(folder)):,} rows{'' if new else ', complete already'}")
    say("\n".join(told(read_table(dst))))
    say(f"licences: {dst / LICENCES}")


if __name__ == "__main__":
    run(main)
