"""Many pictures as webdataset shards, by as many processes as there are; the same command again goes on.

The unit of work is a shard: `shard_size` images, a function of the request alone. Process r of w makes shards r, r + w, ...; each
is written under another name and renamed when whole, one that is there is passed over; a process locks its place. So the bytes do
not depend on how many processes there are or how often they were killed, on the same kind of device. `request.json` says what was
asked: another request into the same folder is refused.
"""

import hashlib
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from data.errors import disk_told
from data.files import held, sync
from data.pack.write import Shard

from ..events import StageFinished
from ..pipeline import Cascade
from ..plan import Plan
from ..request import Request
from .metadata import as_meant, describe

ASKED = "request.json"
RECORD = 10_240  # bytes; a tar is made of these


def place() -> tuple[int, int]:
    """(rank, world) as torchrun says; (0, 1) alone. Raises ValueError where the environment says what cannot be."""
    rank, world = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    if not (rank.isdecimal() and world.isdecimal() and int(rank) < int(world)):
        raise ValueError(
            f"RANK={rank} WORLD_SIZE={world}: a rank from 0 to below the number of processes is allowed; unset both"
        )
    return int(rank), int(world)


def local_device(device: str) -> str:
    """The GPU of this process under torchrun; `device` as it is where the CPU, or one GPU by number, was asked for."""
    import torch

    if device not in ("auto", "cuda") or not torch.cuda.is_available() or "LOCAL_RANK" not in os.environ:
        return device
    return f"cuda:{int(os.environ['LOCAL_RANK']) % torch.cuda.device_count()}"


def generate(model: Cascade, request: Request, folder: Path, *, shard_size: int) -> Iterator[Path]:
    """This process's shards of the request, each yielded when whole: train-00000.tar, ...; members png, json and txt or cls.

    Raises ValueError where the folder holds another request's shards, and for a picture to sharpen.
    """
    if request.low_res is not None:
        raise ValueError("--shard-size: makes pictures from prompts or labels; leave --image out")
    if not 1 <= shard_size <= 100_000:
        raise ValueError(f"--shard-size {shard_size} is out of range; 1 to 100000 images a shard are allowed")
    num = -(-request.total // shard_size)
    if num > 100_000:
        raise ValueError(f"--shard-size {shard_size}: {num} shards; at most 100000, take more images a shard")
    plan = model.resolve(request)
    model.check(plan.picked((0,)))
    folder.mkdir(parents=True, exist_ok=True)
    rank, world = place()
    with held(folder / f".{rank}.lock", f"--out {folder}"):
        with disk_told(folder / ASKED):
            check_asked(folder / ASKED, asked(plan, shard_size), f".{rank}-of-{world}.request.part")
        remove_stale(folder, rank, world)
        for number in range(rank, num, world):
            path = folder / f"train-{number:05d}.tar"
            if not is_whole(path):
                images = range(number * shard_size, min((number + 1) * shard_size, request.total))
                write(model, plan.picked(images), folder, path, f".{rank}-of-{world}.{number}.part")
                yield path


def remove_stale(folder: Path, rank: int, world: int) -> None:
    """What was left by runs that were killed: of this process's place; by the first, of places that only other numbers have. A run
    of another number that lives has a first process, too, and with it the lock that is held here."""
    for part in folder.glob(".*-of-*.part"):
        of = int(part.name.split(".")[1].partition("-of-")[2])
        if part.name.startswith(f".{rank}-of-{world}.") or (rank == 0 and of != world):
            part.unlink(missing_ok=True)
    if rank == 0:
        for lock in folder.glob(".*.lock"):
            if int(lock.name.split(".")[1]) >= world:
                lock.unlink(missing_ok=True)


def is_whole(path: Path) -> bool:
    """A tar ends in zeros and at a whole record; a power cut may have kept less than was renamed."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(-min(size, 1024), os.SEEK_END)
            return size > 0 and size % RECORD == 0 and not any(file.read())
    except FileNotFoundError:
        return False


def write(model: Cascade, plan: Plan, folder: Path, path: Path, part: str) -> None:
    """One shard; nothing stays of it where something fails."""
    try:
        with disk_told(path):
            shard = Shard(folder, part, "train")
        with shard:
            for event in model.sample(plan):
                if isinstance(event, StageFinished) and event.last:
                    for row, (image, k) in enumerate(zip(event.images, event.index, strict=True)):
                        said = describe(plan, k, (row, len(event.index)))
                        with disk_told(path):
                            shard.add(f"{k:09d}", members(image, said))
            with disk_told(path):
                shard.close()
                put(folder / part, path)
    finally:
        (folder / part).unlink(missing_ok=True)


def put(part: Path, path: Path) -> None:
    """Under its name, where a power cut leaves it whole or not at all."""
    sync(part)
    part.replace(path)
    sync(path.parent)


def members(image: Tensor, said: dict[str, Any]) -> dict[str, bytes]:
    """uint8 (c, h, w) and what made it, as the members of a sample."""
    out = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).squeeze(-1).numpy()).save(out, format="PNG")
    sample = {"png": out.getvalue(), "json": json.dumps(said).encode()}
    if "prompts" in said:
        sample["txt"] = said["prompts"][0].encode()
    if "labels" in said:
        sample["cls"] = str(said["labels"][0]).encode()
    return sample


def asked(plan: Plan, shard_size: int) -> dict[str, Any]:
    """What the bytes of all shards depend on; prompts and labels as a hash, there may be millions."""
    said = describe(plan) | {"shard_size": shard_size, "batch": plan.request.batch}
    for name in ("prompts", "labels"):
        if name in said:
            said[name] = hashlib.sha256(json.dumps(said[name]).encode()).hexdigest()
    return said


def check_asked(path: Path, said: dict[str, Any], part: str) -> None:
    """Writes it, or compares it with what is there. part: a name for it until it is whole. Raises ValueError."""
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
        there = json.loads(path.read_text())
    except ValueError:
        there = None
    if not isinstance(there, dict):
        raise ValueError(f"{path}: damaged; remove the folder and start again, or choose another one")
    there, said = as_meant(there), as_meant(json.loads(json.dumps(said)))
    for key in said.keys() | there.keys():
        if said.get(key) != there.get(key):
            raise ValueError(
                f"--out {path.parent}: shards of a request with other {key} are there; choose another folder"
            )
