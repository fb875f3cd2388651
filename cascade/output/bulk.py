"""Writes many pictures as webdataset shards, in any number of processes; the same command again continues.

The unit of work is a shard: `shard_size` images, determined by the request alone. Process r of w makes shards r, r + w, ...;
each is written under a temporary name and renamed when complete, and existing ones are skipped; each process holds a lock for
its rank. So on one kind of device the bytes depend neither on the number of processes nor on kills. `request.json` records the
request: another request into the same folder is refused.
"""

import hashlib
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from data.alpha import to_image
from data.errors import disk_told
from data.files import held, make_folder, sync
from data.pack.write import Shard

from ..events import StageFinished
from ..pipeline import Cascade
from ..plan import Plan
from ..request import Request
from .metadata import as_meant, describe

REQUEST_FILE = "request.json"
RECORD = 10_240  # bytes of a tar record


def rank_and_world() -> tuple[int, int]:
    """(rank, world) from the environment of torchrun; (0, 1) without it. Raises ValueError for values that are impossible."""
    rank, world = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    if not (rank.isdecimal() and world.isdecimal() and int(rank) < int(world)):
        raise ValueError(
            f"RANK={rank} WORLD_SIZE={world}: a rank from 0 to below the number of processes is allowed; unset both"
        )
    return int(rank), int(world)


def local_device(device: str) -> str:
    """The GPU of this process under torchrun, if `device` is auto or cuda; else `device` unchanged."""
    import torch

    if device not in ("auto", "cuda") or not torch.cuda.is_available() or "LOCAL_RANK" not in os.environ:
        return device
    return f"cuda:{int(os.environ['LOCAL_RANK']) % torch.cuda.device_count()}"


def generate(model: Cascade, request: Request, folder: Path, *, shard_size: int) -> Iterator[Path]:
    """Make this process's shards of a request and yield each when complete: train-00000.tar, ...; members png, json, txt, cls.

    Raises ValueError if the folder holds shards of another request, and for a request with given pictures.
    """
    if request.maps is not None:
        raise ValueError("--shard-size: makes pictures from prompts and labels; leave --map out")
    if request.low_res is not None:
        raise ValueError("--shard-size: makes pictures from prompts and labels; leave --image out")
    if not 1 <= shard_size <= 100_000:
        raise ValueError(f"--shard-size {shard_size} is out of range; 1 to 100000 images a shard are allowed")
    num = -(-request.total // shard_size)
    if num > 100_000:
        raise ValueError(f"--shard-size {shard_size}: {num} shards; at most 100000, take more images a shard")
    plan = model.resolve(request)
    model.check(plan.picked((0,)))
    make_folder(folder)
    rank, world = rank_and_world()
    with held(folder / f".{rank}.lock", f"--out {folder}"):
        with disk_told(folder / REQUEST_FILE):
            check_asked(folder / REQUEST_FILE, asked(plan, shard_size), f".{rank}-of-{world}.request.part")
        remove_stale(folder, rank, world)
        for shard_index in range(rank, num, world):
            path = folder / f"train-{shard_index:05d}.tar"
            if not is_whole(path):
                images = range(shard_index * shard_size, min((shard_index + 1) * shard_size, request.total))
                write(model, plan.picked(images), folder, path, f".{rank}-of-{world}.{shard_index}.part")
                yield path


def remove_stale(folder: Path, rank: int, world: int) -> None:
    """Remove partial files that killed processes left: those of this rank and world; rank 0 also removes those of other numbers of
    processes, and their locks. That is safe: rank 0 of another living run would hold the lock that is held here."""
    for part in folder.glob(".*-of-*.part"):
        part_world = int(part.name.split(".")[1].partition("-of-")[2])
        if part.name.startswith(f".{rank}-of-{world}.") or (rank == 0 and part_world != world):
            part.unlink(missing_ok=True)
    if rank == 0:
        for lock in folder.glob(".*.lock"):
            if int(lock.name.split(".")[1]) >= world:
                lock.unlink(missing_ok=True)


def is_whole(path: Path) -> bool:
    """Whether a tar is complete: it ends in zeros and at a record boundary. A power cut can truncate a file after its renaming."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(-min(size, 1024), os.SEEK_END)
            return size > 0 and size % RECORD == 0 and not any(file.read())
    except FileNotFoundError:
        return False


def write(model: Cascade, plan: Plan, folder: Path, path: Path, part: str) -> None:
    """Write one shard; nothing is left of it if that fails."""
    try:
        with disk_told(path):
            shard = Shard(folder, part, "train")
        with shard:
            for event in model.sample(plan):
                if isinstance(event, StageFinished) and event.last:
                    for row, (image, k) in enumerate(zip(event.images, event.index, strict=True)):
                        metadata = describe(plan, k, (row, len(event.index)))
                        with disk_told(path):
                            shard.add(f"{k:09d}", members(image, metadata))
            with disk_told(path):
                shard.close()
                put(folder / part, path)
    finally:
        (folder / part).unlink(missing_ok=True)


def put(part: Path, path: Path) -> None:
    """Rename a complete file to its final name, synced to disk before and after."""
    sync(part)
    part.replace(path)
    sync(path.parent)


def members(image: Tensor, said: dict[str, Any]) -> dict[str, bytes]:
    """The members of a sample: the picture uint8 (c, h, w) as png, its metadata as json, its prompt as txt, its label as cls."""
    buffer = io.BytesIO()
    to_image(image).save(buffer, format="PNG")
    sample = {"png": buffer.getvalue(), "json": json.dumps(said).encode()}
    if "prompts" in said:
        sample["txt"] = said["prompts"][0].encode()
    if "labels" in said:
        sample["cls"] = str(said["labels"][0]).encode()
    return sample


def asked(plan: Plan, shard_size: int) -> dict[str, Any]:
    """Everything that the bytes of the shards depend on; prompts and labels as a hash, since there may be millions."""
    record = describe(plan) | {"shard_size": shard_size, "batch": plan.request.batch}
    for name in ("prompts", "labels"):
        if name in record:
            record[name] = hashlib.sha256(json.dumps(record[name]).encode()).hexdigest()
    return record


def check_asked(path: Path, said: dict[str, Any], part: str) -> None:
    """Write the record of the request, or compare it with the one that is there. part: its temporary name. Raises ValueError if
    they differ."""
    if not path.exists():
        if any(path.parent.glob("train-*.tar")):
            raise ValueError(f"--out {path.parent}: shards without their {path.name} are there; choose another folder")
        try:
            (path.parent / part).write_text(json.dumps(said, indent=1))
            put(path.parent / part, path)
        finally:
            (path.parent / part).unlink(missing_ok=True)
        return
    try:
        existing = json.loads(path.read_text())
    except ValueError:
        existing = None
    if not isinstance(existing, dict):
        raise ValueError(f"{path}: damaged; remove the folder and start again, or choose another one")
    existing, said = as_meant(existing), as_meant(json.loads(json.dumps(said)))
    for key in said.keys() | existing.keys():
        if said.get(key) != existing.get(key):
            raise ValueError(
                f"--out {path.parent}: shards of a request with other {key} are there; choose another folder"
            )
