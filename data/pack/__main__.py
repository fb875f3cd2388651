"""`python -m data.pack SRC DST`: the command line of `data.pack.packer`."""

from pathlib import Path
from typing import Annotated

import typer

from data.cli import run
from data.index import report
from data.pack.packer import pack
from data.pack.settings import PackSettings


def main(
    src: Annotated[Path, typer.Argument(help="folder of pictures (with metadata, class folders or plain) or of tars")],
    dst: Annotated[Path, typer.Argument(help="folder for the shards and index.json")],
    size: Annotated[int, typer.Option(help="side in px; 0 keeps each picture's own size, and tars as they are")] = 64,
    resize: Annotated[str, typer.Option(help="center_crop, pad or none")] = "center_crop",
    upscale: Annotated[
        bool, typer.Option("--upscale", help="enlarge pictures smaller than --size, not skip them")
    ] = False,
    background: Annotated[str, typer.Option(help="colour under transparency")] = "white",
    alpha: Annotated[
        bool, typer.Option("--alpha", help="keep transparency: pictures of four channels, for stages with channels: 4")
    ] = False,
    format: Annotated[str, typer.Option(help="png, jpg or webp")] = "png",
    quality: Annotated[int, typer.Option(help="of jpg and webp; webp of 100 is lossless")] = 95,
    text_encoder: Annotated[str | None, typer.Option(help="minilm, a folder or a hub id: store token features")] = None,
    text_tokens: Annotated[int, typer.Option(help="longest caption in tokens; the rest is cut")] = 32,
    source: Annotated[str | None, typer.Option(help="metadata, classes, plain or tars, if not found by itself")] = None,
    text_column: Annotated[
        str | None, typer.Option(help="captions: column of metadata, or suffix or .json field beside pictures")
    ] = None,
    caption: Annotated[
        list[str] | None,
        typer.Option(
            help="several captions: COLUMN=PROBABILITY, or COLUMN+COLUMN=... joined; once each; what is left to 1: none"
        ),
    ] = None,
    list_column: Annotated[
        list[str] | None,
        typer.Option(help="of --caption: COLUMN=SEPARATOR, a text that is a list; JSON lists need none"),
    ] = None,
    label_column: Annotated[str | None, typer.Option(help="class column of metadata [default: label]")] = None,
    splits: Annotated[
        bool,
        typer.Option("--splits/--no-splits", help="whether names (train, val, test) and a column split tell splits"),
    ] = True,
    dotted_keys: Annotated[
        bool, typer.Option("--dotted-keys", help="of tars: keys end at the last dot of a name, not at the first")
    ] = False,
    skip_damaged: Annotated[
        bool, typer.Option("--skip-damaged", help="of tars: leave out shards that cannot be read, not refuse all")
    ] = False,
    shards: Annotated[int, typer.Option(help="number of train shards; 0: 16 or more, at most 1,000 pictures each")] = 0,
    val: Annotated[float, typer.Option(help="fraction held out into val shards, by hash of the key")] = 0.0,
    limit: Annotated[int, typer.Option(help="pack only so many; 0: all")] = 0,
    seed: Annotated[int, typer.Option(help="of the order in the shards")] = 0,
    max_bad: Annotated[float, typer.Option(help="fraction of bad pictures that is tolerated")] = 0.05,
    min_side: Annotated[int, typer.Option(help="leave out pictures whose shorter side is less")] = 0,
    skip_uncaptioned: Annotated[
        bool, typer.Option("--skip-uncaptioned", help="leave out pictures without a caption, not train them as empty")
    ] = False,
    workers: Annotated[int | None, typer.Option(help="processes; 0: none [default: one a core]")] = None,
    device: Annotated[str, typer.Option(help="where captions are encoded: cpu, cuda")] = "cpu",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace what DST holds")] = False,
    maps: Annotated[
        str | None,
        typer.Option(
            help="folder of maps, a picture of the same name for each picture, or the extension of members of tars: for cond.maps"
        ),
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="the same as --size 0")] = False,
) -> None:
    """Pack pictures into webdataset shards with an index, ready for train.py --data DST."""
    settings = PackSettings(
        size=0 if keep else size, resize=resize, upscale=upscale, background=background, alpha=alpha, format=format,
        quality=quality,
        text_encoder=text_encoder, text_tokens=text_tokens, source=source, text_column=text_column, label_column=label_column,
        splits=splits, shards=shards, val=val, limit=limit, seed=seed, max_bad=max_bad, min_side=min_side,
        skip_uncaptioned=skip_uncaptioned,
        dotted_keys=dotted_keys, skip_damaged=skip_damaged, maps=maps,
        caption=tuple(caption or ()), list_column=tuple(list_column or ()),
    )  # fmt: skip
    report(pack(src, dst, settings, workers=workers, device=device, overwrite=overwrite), dst)


if __name__ == "__main__":
    run(main)
