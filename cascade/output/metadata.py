"""The metadata of a picture, in the text of its PNG or beside it in a shard: how it was made."""

import hashlib
from collections.abc import Sequence
from typing import Any, cast

from pydantic import ValidationError
from torch import Tensor

from stages.config import SampleConfig
from stages.texts import as_values

from ..config import UNCERTAINTY
from ..link import Link, over
from ..plan import Plan
from ..request import of_rows
from ..source import Source


def describe(
    plan: Plan, image: int | None = None, row: tuple[int, int] | None = None, stage: str = ""
) -> dict[str, Any]:
    """The metadata of a picture: enough to make it again with the same bundles (`cascade.output.again`).

    image: its number; None: of the whole request. A single picture is described with its own prompt, label and guidance
    only, since it is also a picture of a request for these alone, of the number that its noise has.
    row: its position among the images that were computed together, and their number, on which rounding depends. stage: the stage
    whose picture it is, if not the last; UNCERTAINTY: that of the last.
    """
    request = plan.request
    number = None if image is None else request.noise_number(image)
    num = request.num if number is None else max(request.num, number + 1)
    metadata: dict[str, Any] = {"seed": request.seed, "num": num, "precision": plan.precision}
    lists: dict[str, Sequence[Any]] = {"prompts": request.prompts, "labels": request.labels}
    lists["negative"] = request.negative if any(request.negative) else ()
    lists["composed"] = request.composed if any(request.composed) else ()
    for name, values in lists.items():
        if values:
            metadata[name] = list(values) if image is None else of_rows(values, [request.description(image)])
    if image is None and request.guidance:
        metadata["guidance"] = {stage: list(scales) for stage, scales in request.guidance.items()}
    if image is None and request.same_noise:
        metadata["same_noise"] = True
    if number is not None:
        metadata["image"] = number
    if row is not None:
        metadata["row"] = list(row)
    if stage == UNCERTAINTY:
        metadata[UNCERTAINTY] = True
    elif stage:
        metadata["stage"] = stage
    if request.size:
        metadata["size"] = list(request.size)
    if request.low_res is not None:
        pictures = request.low_res if image is None else cast(Tensor, request.given((image,)))[0]
        metadata["low_res"] = {
            "shape": list(pictures.shape),
            "sha256": sha256(pictures),
        }
    if request.source is not None:
        metadata["source"] = described(request.source if image is None else request.source[[request.source_row(image)]])
    if (maps := request.maps if image is None else request.maps_of((image,))) is not None:
        metadata["maps"] = {"shape": list(maps.shape), "sha256": sha256(maps)}
    metadata["stages"] = {
        link.name: {
            "bundle": link.sidecar.sha256,
            **({"hosts": link.beside} if link.beside else {}),
            "nimg": link.sidecar.provenance.nimg,
            "settings": as_values(settings_of(plan, link, image)),
        }
        for link in plan.made_by
    }
    return metadata


def settings_of(plan: Plan, link: Link, image: int | None) -> SampleConfig:
    """The settings of a stage for an image, with the scale that the request has for it in place of the stage's."""
    scales = None if image is None else plan.scales(link.name, (image,))
    if scales is None:
        return link.settings
    return SampleConfig.model_validate(over(link.settings.model_dump(), {"guidance_scale": scales[0]}))


def described(source: Source) -> dict[str, Any]:
    """A source: sha256 of its pictures and of its mask, and what else is said of it."""
    said: dict[str, Any] = {"shape": list(source.images.shape), "sha256": sha256(source.images)}
    if source.mask is not None:
        said["mask"] = sha256(source.mask)
    if source.stage:
        said["stage"] = source.stage
    if source.inverted:
        said |= {"inverted": True, "prompts": list(source.prompts), "labels": list(source.labels)}
    return said


def sha256(pixels: Tensor) -> str:
    """sha256 of a tensor's bytes."""
    return hashlib.sha256(pixels.contiguous().numpy().tobytes()).hexdigest()


def describe_all(plan: Plan, index: Sequence[int], stage: str = "") -> dict[str, Any]:
    """The metadata of a grid of the images `index`; a grid of one image is that picture."""
    if len(index) == 1:
        return describe(plan, index[0], stage=stage)
    metadata = describe(plan, stage=stage) | {"batch": plan.request.batch}
    return metadata if len(index) == plan.request.total else metadata | {"pick": list(index)}


def as_meant(said: dict[str, Any]) -> dict[str, Any]:
    """The metadata with all settings, for comparison: those that its version did not have yet get their defaults, which keep the
    old behaviour."""
    stages = said.get("stages")
    if not isinstance(stages, dict):
        return said
    return said | {"stages": {name: _as_meant(stage) for name, stage in stages.items()}}


def _as_meant(stage: Any) -> Any:
    """One stage, with all settings; unchanged if it does not validate."""
    try:
        return stage | {"settings": SampleConfig.model_validate(stage["settings"]).model_dump(mode="json")}
    except (ValidationError, LookupError, TypeError):
        return stage
