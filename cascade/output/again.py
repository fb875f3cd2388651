"""Makes a picture again from its metadata: the same bytes, given the same bundles and the same kind of machine.

Rounding depends on the number of rows of a network call. So the picture is computed at its old position in a batch with as many
rows as before; the content of the other rows does not matter, so they are copies of it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, ValidationError, model_validator
from torch import Tensor

from data.decode import read_file
from data.tar import MEMBER_LIMITS

from ..config import UNCERTAINTY
from ..engine.alone import events_of
from ..engine.canvas import Canvas
from ..engine.chunk import Painting
from ..events import StageFinished
from ..pipeline import Cascade
from ..plan import Plan
from ..request import MAX_BATCH, Request, composed_of
from ..source import Source
from .given import GivenFile
from .metadata import as_meant, sha256
from .pictures import parse_metadata, read_metadata, user_picture
from .sources import pixels_of

Number = Annotated[int, Field(strict=True, ge=0)]


class SaidStage(BaseModel):
    """A stage in the metadata: sha256 of its bundle and of other hosts, sampling settings."""

    bundle: str
    hosts: dict[str, str] = {}
    settings: dict[str, Any]


class SaidPicture(BaseModel):
    """A given picture in the metadata."""

    sha256: str


class SaidSource(SaidPicture):
    """A source in the metadata; mask: its sha256."""

    mask: str | None = None
    stage: str = ""
    inverted: bool = False
    prompts: list[str] = []
    labels: list[Number] = []


class Said(BaseModel):
    """The metadata of a picture: types and ranges. `plan_of` checks whether they fit the cascade."""

    stages: Annotated[dict[str, SaidStage], Field(min_length=1)]
    precision: Literal["fp32", "bf16"]
    num: Number
    seed: Number
    batch: Number = 16
    prompts: list[str] = []
    labels: list[Number] = []
    negative: list[str] = []
    composed: list[list[tuple[str, float]]] = []
    guidance: dict[str, list[float]] = {}
    same_noise: bool = False
    size: tuple[Number, Number] | None = None
    low_res: SaidPicture | None = None
    source: SaidSource | None = None
    maps: SaidPicture | None = None
    image: Number | None = None
    row: tuple[Number, Annotated[int, Field(strict=True, ge=1, le=MAX_BATCH)]] = (0, 1)
    stage: str | None = None
    pick: list[Number] = []

    @model_validator(mode="after")
    def _suits_itself(self) -> Self:
        if self.row[0] >= self.row[1]:
            raise ValueError(f"row: place {self.row[0]} of {self.row[1]}")
        if self.stage is not None and self.stage not in self.stages:
            raise ValueError("stage: is not among the stages")
        return self


def said_of(path: Path) -> dict[str, Any]:
    """Read the metadata of a PNG, or a .json from a shard, and check their types. Raises ValueError, OSError."""
    is_json = path.suffix.lower() == ".json"
    metadata = parse_metadata(read_file(path, MEMBER_LIMITS["json"]), path) if is_json else read_metadata(path)
    if UNCERTAINTY in metadata:
        raise ValueError(f"{path}: a map of what was uncertain; name the picture that lies beside it")
    try:
        Said.model_validate(metadata)
    except ValidationError as error:
        detail = error.errors()[0]
        field = ".".join(map(str, detail["loc"]))
        message = f"{field}: {detail['msg']}" if field else detail["msg"]
        raise ValueError(f"{path}: damaged metadata ({message[:200]}); or another version wrote it") from None
    return metadata


def ends_of(said: Mapping[str, Any]) -> tuple[str, str]:
    """The first and the last stage that made a picture."""
    return next(iter(said["stages"])), list(said["stages"])[-1]


def plan_of(
    path: Path,
    said: Mapping[str, Any],
    model: Cascade,
    file: GivenFile | None,
    mask: Path | None = None,
    maps: Tensor | None = None,
) -> Plan:
    """The plan of the whole request that made a picture. mask: what was painted of a source; maps: those that it was made with.
    Raises ValueError if the bundles or what is given differ."""
    for link in model.links:
        if (recorded := said["stages"].get(link.name, {}).get("bundle")) != link.sidecar.sha256:
            raise ValueError(
                f"{path}: made by stage {link.name} of sha256 {str(recorded)[:12]}, here it is {link.sidecar.sha256[:12]}; "
                "name the cascade that made it with --cascade"
            )
        if said["stages"][link.name].get("hosts", {}) != link.beside:
            raise ValueError(
                f"{path}: made by stage {link.name} beside other networks than are here; "
                "name the cascade that made it with --cascade"
            )
    check_maps(path, said, maps)
    source = source_of(path, said, model, file, mask)
    low_res = None if source else low_res_of(path, said, model, file)
    try:
        request = Request(
            num=said["num"],
            seed=said["seed"],
            prompts=tuple(said.get("prompts", ())),
            labels=tuple(said.get("labels", ())),
            size=tuple(said["size"]) if said.get("size") else None,  # type: ignore[arg-type]
            settings={name: stage["settings"] for name, stage in as_meant(dict(said))["stages"].items()},
            batch=said.get("batch", 16),
            low_res=low_res,
            maps=maps,
            negative=tuple(said.get("negative", ())),
            composed=composed_of(said.get("composed", ())),
            guidance={name: tuple(scales) for name, scales in said.get("guidance", {}).items()},
            same_noise=said.get("same_noise", False),
            source=source,
        )
        return model.resolve(request)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def check_maps(path: Path, said: Mapping[str, Any], maps: Tensor | None) -> None:
    """Raise ValueError unless these are the maps that a picture was made with."""
    recorded = said.get("maps")
    if not recorded and maps is not None:
        raise ValueError(f"{path}: made without a map; leave --map out")
    if recorded and maps is None:
        raise ValueError(f"{path}: made with a map; give that one with --map")
    if recorded and maps is not None and sha256(maps) != recorded["sha256"]:
        raise ValueError(f"{path}: made with another map; give that one with --map")


def low_res_of(path: Path, said: Mapping[str, Any], model: Cascade, file: GivenFile | None) -> Tensor | None:
    """The pixels that were given to the first stage, shrunk if they were then; None if that is a base stage. Raises ValueError."""
    low_res = model.links[0].contract.low_res
    if low_res is None:
        if file is not None:
            raise ValueError(f"{path}: made from no picture; leave --image out")
        return None
    if not said.get("low_res"):
        raise ValueError(f"{path}: damaged metadata (low_res is missing); or another version wrote it")
    if file is None:
        raise ValueError(f"{path}: made from another picture; give that one with --image")
    channels = model.links[0].contract.channels
    pixels = file.pixels(channels)
    if sha256(pixels) == said["low_res"]["sha256"]:
        return pixels
    if min(file.size) >= low_res:
        pixels = user_picture(file.path, low_res, model.low_res_multiple(), channels)
        if sha256(pixels) == said["low_res"]["sha256"]:
            return pixels
    raise ValueError(f"{file.path}: not the picture that {path} was made from; give that one with --image")


def source_of(
    path: Path, said: Mapping[str, Any], model: Cascade, file: GivenFile | None, mask: Path | None
) -> Source | None:
    """The source that a picture was painted over; None if there was none. Raises ValueError."""
    recorded = said.get("source")
    if not recorded:
        if mask is not None:
            raise ValueError(f"{path}: made without a mask; leave --mask out")
        return None
    if file is None:
        raise ValueError(f"{path}: painted over another picture; give that one with --image")
    if bool(mask) != bool(recorded.get("mask")):
        raise ValueError(
            f"{path}: painted {'without a mask; leave it out' if mask else 'by a mask; give it with --mask'}"
        )
    for fit in (False, True):
        try:
            images, painted = pixels_of(model, file, mask, stage=recorded.get("stage", ""), fit=fit)
        except ValueError:
            if not fit:
                continue
            raise
        if sha256(images) == recorded["sha256"]:
            if painted is not None and sha256(painted) != recorded["mask"]:
                raise ValueError(f"{mask}: not the mask that {path} was painted by; give that one with --mask")
            return Source(
                images=images,
                mask=painted,
                stage=recorded.get("stage", ""),
                inverted=recorded.get("inverted", False),
                prompts=tuple(recorded.get("prompts", ())),
                labels=tuple(recorded.get("labels", ())),
            )
    raise ValueError(f"{file.path}: not the picture that {path} was painted over; give that one with --image")


@dataclass(frozen=True, kw_only=True)
class Copies(Painting):
    """The work of a single chunk that holds `rows` copies of one image."""

    image: int
    rows: int

    @property
    def num_chunks(self) -> int:
        """One."""
        return 1

    def chunk(self, number: int) -> tuple[int, ...]:
        """The number of the image, once for each row."""
        return (self.image,) * self.rows


def repainted(model: Cascade, plan: Plan, said: Mapping[str, Any]) -> Tensor:
    """Compute one image again, uint8 (c, h, w), at the position and with the number of rows of the first time."""
    image, (position, rows) = said["image"], said.get("row", (0, 1))
    single = model.painting(plan.picked((image,)))
    copies = Copies(
        plan=single.plan,
        conds=single.conds,
        beside=single.beside,
        source_conds=single.source_conds,
        image=image,
        rows=rows,
    )
    canvases = [
        Canvas.of(link.sidecar.config, size, continued=True) for link, size in zip(plan.links, plan.sizes, strict=True)
    ]
    factor = max(
        -(-math.prod(canvas.size) // link.host.area) for canvas, link in zip(canvases, plan.links, strict=True)
    )
    painted = {
        event.stage: event.images[position]
        for event in events_of(copies, rows * factor, plan.rows)
        if isinstance(event, StageFinished)
    }
    return painted[said.get("stage") or model.names[-1]]
