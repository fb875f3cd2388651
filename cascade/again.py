"""A picture made again from its own metadata: the same bytes, by the same bundles on the same kind of machine.

Sums of another number of rows round otherwise. So a picture is made in the place that it had among as many rows as there were; what
the others were does not matter, so all are copies of it.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .chunk import Plan, paint
from .events import Event, StageFinished
from .given import GivenFile
from .pictures import read_metadata, user_picture
from .pipeline import Cascade
from .request import Request


def said_of(path: Path) -> dict[str, Any]:
    """What made a picture: of a PNG, or the .json beside it in a shard. Raises ValueError, OSError."""
    if path.suffix.lower() != ".json":
        return read_metadata(path)
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        raise ValueError(
            f"{path}: not what sample.py writes about a picture; name a PNG, or the .json of a shard"
        ) from None


def ends_of(path: Path, said: Mapping[str, Any]) -> tuple[str, str]:
    """The first and the last stage of a picture. Raises ValueError."""
    stages = said.get("stages")
    if not isinstance(stages, dict) or not stages or not isinstance(said.get("precision"), str):
        raise ValueError(f"{path}: its metadata do not name stages; another version may have written it")
    return next(iter(stages)), list(stages)[-1]


def request_of(path: Path, said: Mapping[str, Any], model: Cascade, file: GivenFile | None) -> Request:
    """The request that made a picture, of all images of it. Raises ValueError where the bundles or the given picture are others."""
    for link in model.links:
        if (wanted := said["stages"].get(link.name, {}).get("bundle")) != link.sidecar.sha256:
            raise ValueError(
                f"{path}: made by stage {link.name} of sha256 {str(wanted)[:12]}, here it is {link.sidecar.sha256[:12]}; "
                "name the cascade that made it with --cascade"
            )
    try:
        return Request(
            num=said["num"],
            seed=said["seed"],
            prompts=tuple(said.get("prompts", ())),
            labels=tuple(said.get("labels", ())),
            size=tuple(said["size"]) if "size" in said else None,  # type: ignore[arg-type]
            settings={name: stage["settings"] for name, stage in said["stages"].items()},
            batch=said.get("batch", 16),
            low_res=low_res_of(path, said, model, file),
        )
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: its metadata miss something ({error}); another version may have written it"
        ) from None


def low_res_of(path: Path, said: Mapping[str, Any], model: Cascade, file: GivenFile | None) -> Tensor | None:
    """The picture that was given, as it was given; None where the chain begins with a base stage."""
    low_res = model.links[0].contract.low_res
    if low_res is None:
        return None
    if file is None:
        raise ValueError(f"{path}: made from another picture; give that one with --image")
    given = file.pixels
    if digest(given) == said["low_res"]["sha256"]:
        return given
    if min(file.size) >= low_res:
        given = user_picture(file.path, low_res, model.low_res_multiple())
        if digest(given) == said["low_res"]["sha256"]:
            return given
    raise ValueError(f"{file.path}: not the picture that {path} was made from; give that one with --image")


def digest(pixels: Tensor) -> str:
    return hashlib.sha256(pixels.numpy().tobytes()).hexdigest()


@torch.inference_mode()
def repainted(model: Cascade, request: Request, said: Mapping[str, Any]) -> Tensor:
    """uint8 (c, h, w): one image, in the place among as many rows as when it was made."""
    image = said["image"]
    place, rows = said.get("row", (0, 1))
    painted: dict[str, Tensor] = {}

    def keep(event: Event) -> None:
        if isinstance(event, StageFinished):
            painted[event.stage] = event.images[place]

    chunk = paint(Plan.of(request.picked((image,)), model.links, model.conditions), (image,) * rows, keep)
    try:
        link, ask = next(chunk)
        while True:
            link, ask = chunk.send(link.answer([ask], batch=ask.rows)[0])
    except StopIteration:
        return painted[said.get("stage") or model.names[-1]]
