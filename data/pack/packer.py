"""Pack pictures into webdataset shards with an index.

Pictures are decoded and resized once, by THE downsample; captions become token features once, by the frozen encoder
that sampling will use. The same source and settings give the same bytes, with any number of worker processes.
"""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from data.cli import progress
from data.index import INDEX_VERSION, Index, ShardInfo, load, save
from data.index.items import Source
from data.index.tally import Counted, Tally, find_shards, index_folder
from data.index.tree import look
from data.pack.encode import BY_CHOICE, TOO_SMALL, outcome
from data.pack.kinds import check_listed, check_used
from data.pack.layout import lay_out
from data.pack.maps import channels_of, with_maps
from data.pack.settings import PackSettings
from data.pack.sources import find_kind, list_source
from data.pack.texts import Texts
from data.pack.write import Shard, check_target, is_free, parallel, workspace
from data.tar import CAPTIONS_MEMBER, Sample

FEW_BYTES = 64 << 20  # of pictures; for less, worker processes take longer to start than they save


def pack(
    src: Path,
    dst: Path,
    settings: PackSettings,
    *,
    workers: int | None = None,
    device: str = "cpu",
    overwrite: bool = False,
    chosen: Callable[[Source], Source] = lambda source: source,
) -> Index:
    """Pack `src` into `dst`; returns the index of the result. chosen: leaves out pictures of the listed source, or what they carry.

    Whatever can be refused is refused before anything is written; an interrupted run leaves nothing.
    """
    settings.check()
    if not src.is_dir():
        raise ValueError(f"source {src} is not a folder; name a folder of pictures or of .tar shards")
    check_target(src, dst)
    tree = look(src)
    kind = find_kind(tree, settings.choices())
    keep = kind == "tars" and settings.size == 0
    if keep:
        settings.check_keep()
        digest = _digest([path.relative_to(src).as_posix(), path.stat().st_size] for path in find_shards(src))
    else:
        source = with_maps(chosen(list_source(tree, kind, settings.choices())), settings.maps, tars=kind == "tars")
        _check_splits(src, source, settings)
        check_listed(settings.plan, (item.columns for item in source.items if item.columns is not None))
        digest = _digest(_listing(source, settings))
    if not overwrite and (packed := _already_packed(dst, digest)):
        return packed
    if not overwrite and not is_free(dst):
        raise ValueError(f"target {dst} holds something else; name an empty folder, or add --overwrite to replace it")
    metadata = settings.told() | {"source": kind, "source_sha256": digest}
    with _half_the_cores(), workspace(dst) as folder:
        index = (
            _linked(src, folder, settings, metadata)
            if keep
            else _packed(source, folder, settings, metadata, workers, device)
        )
        save(index, folder)
    return index


def _packed(
    source: Source, folder: Path, settings: PackSettings, about: dict, workers: int | None, device: str
) -> Index:
    from data.resize import RESIZE_VERSION

    plan = lay_out(source.items, settings)
    num = sum(len(items) for _, _, items in plan)
    texts = Texts(settings, device)
    tally = Tally()
    for reason, name in source.bad:
        tally.skip(reason, name)
    unread = Counted()
    for kind, name in source.unread:
        unread.add(kind, name)
    items = [item for _, _, part in plan for item in part]
    if workers is None:
        workers = 0 if sum(item.image.size for item in items) < FEW_BYTES else os.cpu_count() or 1
    results = progress(parallel(partial(outcome, how=settings.encoding()), items, workers), num, "packing")
    shards = [_write(folder, name, split, zip(part, results, strict=False), tally, texts) for name, split, part in plan]
    _check_bad(tally, num + len(source.bad), settings)
    kinds = list(settings.plan.kinds) or None
    index = tally.index(
        _drop_empty(folder, shards),
        classes=source.classes,
        resize=RESIZE_VERSION,
        text_encoder=texts.info,
        maps=channels_of(source.items) if settings.maps else 0,
        captions=kinds,
        channels=settings.channels,
        settings=about,
        unread=unread.fields(),
        read_as=source.read_as,
    )
    if index.captions:
        check_used(index.captions)
    return index


def _write(folder: Path, name: str, split: str, results: Iterable, tally: Tally, texts: Texts) -> ShardInfo:
    with Shard(folder, name, split) as shard:
        for key, sample in texts.added(_kept(results, tally), tally.skip):
            tally.add(sample)
            shard.add(key, sample)
        return shard.close()


def _linked(src: Path, folder: Path, settings: PackSettings, about: dict) -> Index:
    """Link the tars of `src` (or copy them, across file systems) and index them."""
    for path in find_shards(src):
        target = folder / path.relative_to(src)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, target)
        except OSError:
            shutil.copyfile(path, target)
    index = index_folder(folder, channels=settings.channels, settings=about, skip_damaged=settings.skip_damaged)
    names = {shard.name for shard in index.shards}
    for path in find_shards(folder):
        if path.relative_to(folder).as_posix() not in names:
            path.unlink()  # cannot be read, and is to be left out
    return index


def _check_splits(src: Path, source: Source, settings: PackSettings) -> None:
    """Raise ValueError if --val would mix held-out pictures of the source with others."""
    num = sum(item.split == "val" for item in source.items)
    if settings.val and num:
        raise ValueError(
            f"source {src} holds out {num:,} pictures itself; leave out --val {settings.val} to keep them, "
            "or add --no-splits to divide all pictures anew"
        )


def _kept(results: Iterable, tally: Tally) -> Iterator[tuple[str, Sample]]:
    for item, result in results:
        if isinstance(result, dict):
            if result.get("txt") == b"":
                how = "trained without one" if CAPTIONS_MEMBER in result else "trained as empty"
                tally.notes.add(f"without a caption, {how}", item.name)
            yield item.key, result
        else:
            reason, detail = result
            tally.skip(reason, f"{item.name} ({detail})" if detail else item.name)


@contextmanager
def _half_the_cores() -> Iterator[None]:
    """Limit torch to half the cores: worker processes need the others, and small matrices gain little from many threads."""
    import torch

    num_threads = torch.get_num_threads()
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // 2))
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)


def _check_bad(tally: Tally, num: int, settings: PackSettings) -> None:
    counts = tally.skipped.num
    left_out = {reason: counts[reason] for reason in BY_CHOICE if counts[reason]}
    num_bad = counts.total() - sum(left_out.values())
    details = "; ".join(
        f"{n} {reason}: {', '.join(tally.skipped.names[reason][:3])}" for reason, n in sorted(counts.items())
    )
    if not tally.sizes and list(left_out) == [TOO_SMALL] and not num_bad:
        raise ValueError(
            f"all {left_out[TOO_SMALL]} pictures are smaller than --size {settings.size}; give less, or --upscale"
        )
    if not tally.sizes:
        raise ValueError(f"source has no readable picture ({details or 'nothing found'}); mend the files")
    if num_bad > settings.max_bad * num:
        limit = f"more than --max-bad {settings.max_bad} allows"
        raise ValueError(
            f"{num_bad} of {num} pictures are bad, {limit} ({details}); mend them, or leave them out with "
            f"--max-bad {math.ceil(100 * num_bad / num) / 100:g}"
        )


def _drop_empty(folder: Path, shards: list[ShardInfo]) -> list[ShardInfo]:
    for shard in shards:
        if not shard.num:
            (folder / shard.name).unlink()
    return [shard for shard in shards if shard.num]


def _listing(source: Source, settings: PackSettings) -> Iterator[list]:
    """What determines the result: settings, versions, and the source's names, sizes, captions and labels, but not its pixels."""
    from data.resize import RESIZE_VERSION

    yield [INDEX_VERSION, RESIZE_VERSION, settings.changed(), source.bad, source.classes]
    for item in source.items:
        yield [item.key, item.name, item.split, item.image.offset, item.image.size, item.text, item.label, item.extra]
        if item.map:
            yield [item.map.size]
        if item.columns is not None:
            yield [item.columns]


def _digest(rows: Iterable[list]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


def _already_packed(dst: Path, digest: str) -> Index | None:
    try:
        index = load(dst)
    except ValueError:
        return None
    return index if index.settings.get("source_sha256") == digest else None
