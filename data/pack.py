"""`python -m data.pack SRC DST`: pictures in, webdataset shards and their index out.

Pictures are decoded and resized once, by THE downsample; captions become token features once, by the frozen encoder that
sampling will use. The same source and options give the same bytes, on any number of worker processes.
"""

import hashlib
import io
import json
import os
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import ImageColor

from data.cli import progress, run
from data.encode import FORMATS, RESIZES, Encoding, TooSmall, encode
from data.index import INDEX_VERSION, Index, ShardInfo, Strict, Tally, TextInfo, load, save
from data.sources import KINDS, Item, Source, list_source
from data.tar import TEXT_MEMBER, Sample
from data.write import Shard, check_target, is_free, parallel, workspace

SHARD_IMAGES = 1000  # at most, by default
SHARDS = 16  # a multiple of it by default, for readers split shards into 8 or 16 streams
GROUP = 256  # samples whose captions are encoded together
FEW = 1000  # below so many pictures worker processes cost more than they save


class Settings(Strict):
    """Everything that decides what the shards hold; stored in the index."""

    size: int = 64
    resize: str = "center_crop"
    upscale: bool = False
    background: str = "white"
    format: str = "png"
    quality: int = 95
    text_encoder: str | None = None
    source: str | None = None
    text_column: str = "text"
    label_column: str | None = None
    shards: int = 0
    val: float = 0.0
    limit: int = 0
    seed: int = 0
    max_bad: float = 0.05

    def check(self) -> None:
        """One line about the first option that is out of range."""
        _one_of("--resize", self.resize, RESIZES)
        _one_of("--format", self.format, tuple(FORMATS))
        if self.source is not None:
            _one_of("--source", self.source, KINDS)
        for flag, value, low, high in (
            ("--size", self.size, 0, 8192),
            ("--quality", self.quality, 1, 100),
            ("--shards", self.shards, 0, 1_000_000),
            ("--val", self.val, 0.0, 0.9),
            ("--limit", self.limit, 0, 1 << 60),
            ("--seed", self.seed, 0, (1 << 63) - 1),
            ("--max-bad", self.max_bad, 0.0, 1.0),
        ):
            if not low <= value <= high:
                raise ValueError(f"{flag} {value} is out of range; give {low} to {high}")
        self.encoding()

    def encoding(self) -> Encoding:
        try:
            background = ImageColor.getcolor(self.background, "RGB")
        except ValueError as error:
            raise ValueError(f"--background {self.background!r} is no colour; give white, #ff8800, ...") from error
        return Encoding(
            size=self.size,
            resize=self.resize,
            upscale=self.upscale,
            background=background,  # type: ignore[arg-type]
            format=self.format,
            quality=self.quality,
        )


def pack(src: Path, dst: Path, settings: Settings, *, workers: int | None = None, overwrite: bool = False) -> Index:
    """Pack `src` into `dst`; the index of what lies there afterwards. Raises ValueError before anything is written where it can."""
    settings.check()
    source = list_source(src, settings.source, settings.text_column, settings.label_column)
    check_target(src, dst)
    digest = _digest(source, settings)
    if not overwrite and (done := _already_packed(dst, digest)):
        return done
    if not overwrite and not is_free(dst):
        raise ValueError(f"target {dst} holds something else; name an empty folder, or add --overwrite to replace it")
    with workspace(dst) as folder:
        index = _write(folder, source, settings, digest, workers)
        save(index, folder)
    return index


def _write(folder: Path, source: Source, settings: Settings, digest: str, workers: int | None) -> Index:
    from data.resize import RESIZE_VERSION

    plan = plan_shards(source.items, settings)
    num = sum(len(items) for _, _, items in plan)
    workers = workers if workers is not None else 0 if num < FEW else os.cpu_count() or 1
    job = partial(outcome, how=settings.encoding())
    done = progress(parallel(job, (item for _, _, items in plan for item in items), workers), num, "packing")
    tally = Tally()
    for reason, name in source.bad:
        tally.skip(reason, name)
    texts = _Texts(settings.text_encoder)
    shards = []
    for name, split, items in plan:
        with Shard(folder, name, split) as shard:
            for key, sample in texts.added(_kept(zip(items, done, strict=False), len(items), tally)):
                tally.add(sample)
                shard.add(key, sample)
            shards.append(shard.close())
    _check_bad(tally, num + len(source.bad), settings)
    return tally.index(
        _drop_empty(folder, shards),
        classes=source.classes,
        resize=RESIZE_VERSION,
        text_encoder=texts.info,
        settings=settings.model_dump() | {"source_sha256": digest},
    )


def plan_shards(items: list[Item], settings: Settings) -> list[tuple[str, str, list[Item]]]:
    """(name, split, items) of each shard: the split by hash of the key alone, the order a mixture fixed by the seed."""
    mixed = sorted(items, key=lambda item: _hash(f"{settings.seed}/{item.key}"))[: settings.limit or None]
    plan = []
    for split, rows in (("train", [i for i in mixed if not held_out(i.key, settings.val)]),
                        ("val", [i for i in mixed if held_out(i.key, settings.val)])):  # fmt: skip
        num = min(len(rows), settings.shards if settings.shards and split == "train" else _num_shards(len(rows), split))
        for k in range(num):
            part = rows[k * len(rows) // num : (k + 1) * len(rows) // num]
            plan.append((f"{split}-{k:05d}.tar", split, part))
    return plan


def held_out(key: str, fraction: float) -> bool:
    """Whether a key belongs to val: the same answer at every size, seed and selection of pictures."""
    return int(_hash(f"val/{key}")[:12], 16) < fraction * 16**12


def _num_shards(num: int, split: str) -> int:
    least = -(-num // SHARD_IMAGES)
    return -(-least // SHARDS) * SHARDS if split == "train" else least


def outcome(item: Item, how: Encoding) -> Sample | tuple[str, str]:
    """The sample, or (reason, detail) why there is none; what worker processes send back."""
    try:
        return encode(item, how)
    except TooSmall as error:
        return str(error), ""
    except (ValueError, OSError) as error:
        reason, _, detail = (error.strerror or str(error) if isinstance(error, OSError) else str(error)).partition(": ")
        return reason, detail


def _kept(pairs: Iterable, num: int, tally: Tally) -> Iterator[tuple[str, Sample]]:
    for item, result in islice(pairs, num):
        if isinstance(result, dict):
            yield item.key, result
        else:
            reason, detail = result
            tally.skip(reason, f"{item.name} ({detail})" if detail else item.name)


class _Texts:
    """Adds the token features of its caption to each sample, if an encoder was asked for."""

    def __init__(self, name: str | None):
        from data.text import TextEncoder

        self.encoder = TextEncoder.load(name) if name else None

    @property
    def info(self) -> TextInfo | None:
        e = self.encoder
        return TextInfo(id=e.id, dim=e.dim, max_tokens=e.max_tokens) if e else None

    def added(self, samples: Iterator[tuple[str, Sample]]) -> Iterator[tuple[str, Sample]]:
        if self.encoder is None:
            yield from samples
            return
        while group := list(islice(samples, GROUP)):
            if any("txt" not in sample for _, sample in group):
                raise ValueError("--text-encoder: the source has no captions; name their column with --text-column")
            texts = [sample["txt"].decode("utf-8", errors="replace") for _, sample in group]
            for (key, sample), tokens in zip(group, self.encoder.encode(texts), strict=True):
                yield key, sample | {TEXT_MEMBER: _npy(tokens)}


def _npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array(out, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
    return out.getvalue()


def _check_bad(tally: Tally, num: int, settings: Settings) -> None:
    chosen = tally.skipped_num["smaller than --size"]
    bad = sum(tally.skipped_num.values()) - chosen
    told = "; ".join(f"{n} {why}: {', '.join(tally.skipped[why][:3])}" for why, n in sorted(tally.skipped_num.items()))
    if not tally.sizes and chosen and not bad:
        raise ValueError(
            f"all {chosen} pictures are smaller than --size {settings.size}; give a smaller one, or --upscale"
        )
    if not tally.sizes:
        raise ValueError(f"source has no readable picture ({told or 'nothing found'}); mend the files")
    if bad > settings.max_bad * num:
        raise ValueError(
            f"{bad} of {num} pictures are bad, more than --max-bad {settings.max_bad} allows ({told}); mend them"
        )


def _drop_empty(folder: Path, shards: list[ShardInfo]) -> list[ShardInfo]:
    for shard in shards:
        if not shard.num:
            (folder / shard.name).unlink()
    return [shard for shard in shards if shard.num]


def _digest(source: Source, settings: Settings) -> str:
    """Names what would be packed: options, versions and the listing of the source (names, sizes, captions, labels)."""
    from data.resize import RESIZE_VERSION

    digest = hashlib.sha256(f"{INDEX_VERSION} {RESIZE_VERSION} {settings.model_dump_json()}\n".encode())
    for item in source.items:
        row = [item.key, item.name, item.image.size, item.text, item.label, item.extra, item.image.offset]
        digest.update(json.dumps(row, sort_keys=True).encode() + b"\n")
    digest.update(json.dumps([source.bad, source.classes]).encode())
    return digest.hexdigest()


def _already_packed(dst: Path, digest: str) -> Index | None:
    try:
        index = load(dst)
    except ValueError:
        return None
    return index if index.settings.get("source_sha256") == digest else None


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _one_of(flag: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{flag} {value!r} is not one of {', '.join(allowed)}")


def main(
    src: Annotated[Path, typer.Argument(help="folder of pictures (metadata.jsonl, class folders or plain) or of tars")],
    dst: Annotated[Path, typer.Argument(help="folder for the shards and index.json")],
    size: Annotated[int, typer.Option(help="side in px; 0 keeps each picture's own size, and tars as they are")] = 64,
    resize: Annotated[str, typer.Option(help="center_crop, pad or none")] = "center_crop",
    upscale: Annotated[
        bool, typer.Option("--upscale", help="enlarge pictures smaller than --size, not skip them")
    ] = False,
    background: Annotated[str, typer.Option(help="colour under transparency")] = "white",
    format: Annotated[str, typer.Option(help="png, jpg or webp")] = "png",
    quality: Annotated[int, typer.Option(help="of jpg and webp")] = 95,
    text_encoder: Annotated[str | None, typer.Option(help="minilm, a folder or a hub id: store token features")] = None,
    source: Annotated[str | None, typer.Option(help="metadata, classes, plain or tars, if not found by itself")] = None,
    text_column: Annotated[str, typer.Option(help="caption column of metadata.jsonl")] = "text",
    label_column: Annotated[str | None, typer.Option(help="class column of metadata.jsonl [default: label]")] = None,
    shards: Annotated[int, typer.Option(help="number of train shards; 0: 16 or more, at most 1,000 pictures each")] = 0,
    val: Annotated[float, typer.Option(help="fraction held out into val shards, by hash of the key")] = 0.0,
    limit: Annotated[int, typer.Option(help="pack only so many; 0: all")] = 0,
    seed: Annotated[int, typer.Option(help="of the order in the shards")] = 0,
    max_bad: Annotated[float, typer.Option(help="fraction of bad pictures that is tolerated")] = 0.05,
    workers: Annotated[int | None, typer.Option(help="processes; 0: none [default: one a core]")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace what DST holds")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="the same as --size 0")] = False,
) -> None:
    """Pack pictures into webdataset shards with an index, ready for train.py --data DST."""
    settings = Settings(
        size=0 if keep else size, resize=resize, upscale=upscale, background=background, format=format, quality=quality,
        text_encoder=text_encoder, source=source, text_column=text_column, label_column=label_column, shards=shards,
        val=val, limit=limit, seed=seed, max_bad=max_bad,
    )  # fmt: skip
    report(pack(src, dst, settings, workers=workers, overwrite=overwrite), dst)


def report(index: Index, dst: Path) -> None:
    """What lies in a folder of shards, in a few lines."""
    size = f"{index.size[1]} x {index.size[0]} px" if index.size else f"sizes from {index.min_side} px"
    for split, num in index.num_images.items():
        print(f"{dst}: {num:,} pictures in {len(index.split(split))} {split} shards, {size}")
    if index.classes:
        print(f"classes: {len(index.classes)}")
    if index.text_encoder:
        print(f"captions: {index.text_encoder.id}, {index.text_encoder.dim} features a token")
    for reason, skipped in index.skipped.items():
        print(f"skipped {skipped.num}: {reason}: {', '.join(skipped.names[:5])}")


if __name__ == "__main__":
    run(main)
