"""Responses: what clients receive."""

import math
from collections.abc import Sequence
from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict

from ..http.limits import Refused
from ..jobs.job import Data, Job
from ..jobs.states import Failure, State
from ..jobs.store import JobRow, PictureRow
from ..jobs.writer import picture_url


class Accepted(TypedDict):
    """A new job. images: their numbers. stages: their names, in order. steps: num_steps of each. events, url: links."""

    id: str
    images: list[int]
    stages: list[str]
    steps: dict[str, int]
    seed: int
    events: str
    url: str


class Error(TypedDict):
    """code: for programs. message: one line. type: as in OpenAI's API. param: the field at fault, on OpenAI's route."""

    code: str
    message: str
    type: str
    param: NotRequired[str | None]


class ErrorBody(TypedDict):
    """Body of every error."""

    error: Error


class StageView(TypedDict):
    """Pictures of a stage. side: shorter side in px. done: numbers of the stored pictures; urls: their links."""

    name: str
    side: int
    done: list[int]
    urls: list[str]


class JobView(TypedDict):
    """A job. created: seconds since 1970. parent: id of the job that it refines. num: images of each prompt, label or pair. size:
    [width, height], null for the cascade's own. images: their numbers. until: the stage after which it holds, "" for the
    last. negative, composed, guidance, same_noise: as the request gave them, if it did; negative texts and lists of [text, weight]
    are those of each description, or one for all. source: the stage whose picture it painted over, if it did. map: sha256 of the
    map's pixels, if there was one."""

    id: str
    state: State
    created: float
    parent: str | None
    prompts: list[str]
    labels: list[int]
    num: int
    seed: int
    settings: dict[str, dict[str, Any]]
    size: list[int] | None
    images: list[int]
    stages: list[StageView]
    until: str
    url: str
    events: str
    error: NotRequired[Failure | None]
    negative: NotRequired[list[str]]
    composed: NotRequired[list[list[tuple[str, float]]]]
    guidance: NotRequired[dict[str, list[float]]]
    same_noise: NotRequired[bool]
    source: NotRequired[str]
    map: NotRequired[str]


class JobsView(TypedDict):
    """Jobs, newest first. next: the value of `before` for the next page, null at the end."""

    jobs: list[JobView]
    next: str | None


class ModelStage(TypedDict):
    """A stage. side: of its pictures, low_res: of those that it enlarges, in px (null for a base stage). nfe: network calls
    per image, with the default settings. uncertainty: whether its previews can have maps of it. ranges: of settings, for controls;
    null if a setting has no effect."""

    name: str
    side: int
    low_res: int | None
    nfe: int
    uncertainty: bool
    settings: dict[str, Any]
    ranges: dict[str, Any]


class CascadeView(TypedDict):
    """Stages in order, kind of conditioning, names of classes and limits. conditioning: `text` with num_classes > 0 takes labels
    beside prompts. maps: channels of the maps that it takes, 0: none."""

    stages: list[ModelStage]
    conditioning: Literal["text", "class", "none"]
    num_classes: int
    classes: list[str]
    maps: int
    limits: dict[str, int]


class ModelView(TypedDict):
    """A model in OpenAI's form; `cascade` is an extension."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    cascade: CascadeView


class ModelsView(TypedDict):
    """OpenAI's list of models, which has one."""

    object: Literal["list"]
    data: list[ModelView]


class ImageView(TypedDict):
    """A picture in base64."""

    b64_json: str


class ImagesView(TypedDict):
    """Pictures in OpenAI's form. usage: zeros, since nothing is counted in tokens."""

    created: int
    data: list[ImageView]
    output_format: Literal["png", "webp", "jpeg"]
    size: str
    usage: dict[str, Any]


def accepted(job: Job, root_path: str) -> Accepted:
    """The response for a new job, with links under root_path."""
    assert job.plan is not None
    url = f"{root_path}/v1/jobs/{job.id}"
    return {
        "id": job.id, "images": list(job.plan.index), "stages": job.plan.names,
        "steps": {link.name: link.settings.num_steps for link in job.plan.links}, "seed": job.plan.request.seed,
        "events": f"{url}/events", "url": url,
    }  # fmt: skip


KEPT = ("negative", "composed", "guidance", "same_noise", "source", "map")  # of a stored request, where it has them


def job_data(row: JobRow, state: State, pictures: Sequence[PictureRow]) -> Data:
    """A job in the form of `JobView`, from stored data alone: the cascade that made it may no longer be the one served."""
    request = row.request
    numbers: dict[str, list[int]] = {}
    for picture in pictures:
        numbers.setdefault(picture.stage, []).append(picture.k)
    stages = [
        {
            "name": name,
            "side": side,
            "done": sorted(numbers.get(name, [])),
            "urls": [picture_url(row.id, name, k) for k in sorted(numbers.get(name, []))],
        }
        for name, side in request["stages"].items()
    ]
    return {
        "id": row.id, "state": state, "created": row.created, "parent": row.parent or None,
        "prompts": request["prompts"], "labels": request["labels"], "num": request["num"], "seed": request["seed"],
        "settings": request["settings"], "size": request["size"][::-1] or None, "images": request["index"], "stages": stages,
        "until": request["last"], "url": f"/v1/jobs/{row.id}", "events": f"/v1/jobs/{row.id}/events",
        **{name: request[name] for name in KEPT if name in request},
    }  # fmt: skip


def mounted(said: Data, root_path: str) -> Data:
    """A copy of a job or of an event's data with links under root_path, which stored data lack."""
    copy = said | {name: f"{root_path}{said[name]}" for name in ("url", "events") if name in said}
    if "urls" in said:
        copy["urls"] = [f"{root_path}{url}" for url in said["urls"]]
    for name in ("jobs", "stages", "pictures"):
        if name in said:
            copy[name] = [mounted(item, root_path) for item in said[name]]
    return copy


def history(jobs: Sequence[Data], limit: int, *, is_more: bool) -> Data:
    """At most `limit` of these jobs, newest first. next: the value of `before` for the next page, None at the end."""
    shown = jobs[:limit]
    is_more = is_more or len(jobs) > limit
    return {"jobs": list(shown), "next": f"{shown[-1]['created']!r}:{shown[-1]['id']}" if is_more and shown else None}


def cursor(before: str) -> tuple[float, str]:
    """(created, id) from `next`; "" stands for the beginning. Raises Refused."""
    if not before:
        return math.inf, ""
    created, _, job = before.partition(":")
    try:
        seconds = float(created)
    except ValueError:
        seconds = math.nan
    if math.isnan(seconds) or not job:
        raise Refused(422, "invalid_request", f"before: {before[:60]!r}; send what `next` of the page before says")
    return seconds, job
