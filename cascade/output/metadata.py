"""The metadata of a picture, in the text of its PNG or beside it in a shard: how it was made."""

import hashlib
from collections.abc import Sequence
from typing import Any, cast

from pydantic import ValidationError
from torch import Tensor

from stages.config import SampleConfig
from stages.texts import as_values

from ..plan import Plan


def describe(
    plan: Plan, image: int | None = None, row: tuple[int, int] | None = None, stage: str = ""
) -> dict[str, Any]:
    """The metadata of a picture: enough to make it again with the same bundles (`cascade.output.again`).

    image: its number; None: of the whole request. A single picture is described with its own prompt and label only, since
    it is also picture `image` of a request for these alone.
    row: its position among the images that were computed together, and their number, on which rounding depends. stage: the stage
    whose picture it is, if not the last.
    """
    request = plan.request
    num = request.num if image is None else max(request.num, image + 1)
    metadata: dict[str, Any] = {"seed": request.seed, "num": num, "precision": plan.precision}
    for name, values in (("prompts", request.prompts), ("labels", request.labels)):
        if values:
            metadata[name] = list(values) if image is None else [values[request.description(image) % len(values)]]
    if image is not None:
        metadata["image"] = image
    if row is not None:
        metadata["row"] = list(row)
    if stage:
        metadata["stage"] = stage
    if request.size:
        metadata["size"] = list(request.size)
    if request.low_res is not None:
        pictures = request.low_res if image is None else cast(Tensor, request.given((image,)))[0]
        metadata["low_res"] = {
            "shape": list(pictures.shape),
            "sha256": hashlib.sha256(pictures.numpy().tobytes()).hexdigest(),
        }
    metadata["stages"] = {
        link.name: {
            "bundle": link.sidecar.sha256,
            **({"hosts": link.beside} if link.beside else {}),
            "nimg": link.sidecar.provenance.nimg,
            "settings": as_values(link.settings),
        }
        for link in plan.made_by
    }
    return metadata


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
