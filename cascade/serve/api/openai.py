"""OpenAI's `/v1/images/generations`, on top of the same jobs.

With `stream`, up to 3 previews of each image at the size of the result, the first as soon as there is one; then each
picture. Closing the connection cancels the work.
"""

import asyncio
import base64
import json
import logging
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import Any

from anyio import to_thread
from starlette.types import Receive
from torch import Tensor

from cascade.events import Preview
from data.batch import to_float, to_uint8
from data.resize import upsample

from ..http.limits import Refused, mistakes
from ..http.reads import disconnected
from ..jobs.job import Data, Job
from .bodies import ImagesBody, images_request
from .previews import encode
from .refine import pixels
from .service import Service
from .sse import follow

log = logging.getLogger(__name__)
PATH = "/v1/images/generations"
STATUS = {"cancelled": 409, "out_of_memory": 503, "storage_full": 507, "storage_failed": 503, "shutting_down": 503}


def start(service: Service, owner: str, body: ImagesBody) -> Job:
    """Create the job. Raises Refused, with the field at fault if it is the client's mistake."""
    name = service.name
    if body.model not in (None, name):
        raise Refused(404, "model_not_found", f"model {body.model!r} is not here; there is {name!r}", param="model")
    with mistakes("partial_images"):
        if body.partial_images and not body.stream:
            raise ValueError("partial_images: only with stream")
    plan = images_request(body, service.cascade, service.limits, service.speeds)
    with mistakes("size"):  # everything else has been checked
        return service.create(owner, plan, partials=body.partial_images or 0)


async def streamed(service: Service, owner: str, body: ImagesBody, job: Job) -> AsyncGenerator[bytes, None]:
    """The job as a stream of OpenAI's events; their `index`, the number of the picture, is an extension."""
    shown: Counter[int] = Counter()  # partial images, by picture
    assert job.plan is not None
    size = job.plan.sizes[-1]

    def make(job: Job, preview: Preview) -> Data:
        images = service.allowed(job, preview)
        return {"pictures": [] if images is None else _pictures(preview.index, enlarge(images, size), body)}

    async with aclosing(follow(job, 0, make, pace=None)) as events:
        async for name, _, data in events:
            if name == "partial":
                for picture in data.get("pictures", []):
                    yield _event("partial_image", picture, body, partial_image_index=shown[picture["index"]])
                    shown[picture["index"]] += 1
            elif name in ("failed", "cancelled"):
                yield _frame("error", {"error": data or ended(service)})
            elif name == "finished":
                try:
                    pictures = await to_thread.run_sync(results, service, owner, job, body)
                except (Refused, OSError, sqlite3.Error) as error:
                    log.error("job %s: its pictures cannot be read: %s", job.id, error)
                    data = {"code": "storage_failed", "message": "the pictures cannot be read; try again later"}
                    yield _frame("error", {"error": data})
                    return
                for picture in pictures:
                    yield _event("completed", picture, body, usage=_usage())


async def unless_left(receive: Receive, job: Job, answer: Coroutine[Any, Any, Data]) -> Data:
    """Await the response; cancel the job if the client leaves before."""
    answering = asyncio.create_task(answer)
    leaving = asyncio.create_task(disconnected(receive))
    await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
    leaving.cancel()
    if not answering.done():
        job.cancel()
    return await answering


async def whole(service: Service, owner: str, body: ImagesBody, job: Job) -> Data:
    """The response without a stream. Raises Refused if the job fails."""
    name, data = "cancelled", Data()
    async with aclosing(follow(job, 0, _nothing, pace=None)) as events:
        async for name, _, data in events:  # noqa: B007 - used after the loop
            pass
    if name != "finished":
        data = data or ended(service)
        raise Refused(STATUS.get(data["code"], 500), data["code"], data["message"])
    pictures = await to_thread.run_sync(results, service, owner, job, body)
    return {
        "created": int(time.time()),
        "data": [{"b64_json": picture["b64_json"]} for picture in pictures],
        "output_format": body.output_format or "png",
        "size": pictures[0]["size"],
        "usage": _usage(),
    }


def ended(service: Service) -> Data:
    """Error of a job that was cancelled."""
    if service.is_draining:
        return {"code": "shutting_down", "message": "the server is shutting down; try again later"}
    return {"code": "cancelled", "message": "the job was cancelled"}


def _nothing(job: Job, preview: Preview) -> Data:
    return {}


def results(service: Service, owner: str, job: Job, body: ImagesBody) -> list[Data]:
    """The finished pictures as stored, in the requested format."""
    assert job.plan is not None
    last = service.cascade.names[-1]
    contents = [service.picture(owner, job.id, last, k) for k in job.plan.index]
    pictures = []
    for k, content in zip(job.plan.index, contents, strict=True):
        image = pixels(content, service.cascade.links[-1].contract.channels)
        if (body.output_format or "png") != "png":
            content = _encoded(image, body)
        pictures.append({"b64_json": base64.b64encode(content).decode(), "size": _size(image), "index": k})
    return pictures


def enlarge(images: Tensor, size: tuple[int, int]) -> Tensor:
    """uint8 (b, c, h, w) enlarged to the size (h, w) of the result."""
    return to_uint8(upsample(to_float(images), size))


def _pictures(index: tuple[int, ...], images: Tensor, body: ImagesBody) -> list[Data]:
    return [
        {"b64_json": base64.b64encode(_encoded(image, body)).decode(), "size": _size(image), "index": k}
        for k, image in zip(index, images, strict=True)
    ]


def _encoded(image: Tensor, body: ImagesBody) -> bytes:
    quality = 90 if body.output_compression is None else body.output_compression
    return encode(image, body.output_format or "png", quality)


def _size(image: Tensor) -> str:
    return f"{image.shape[-1]}x{image.shape[-2]}"


def _usage() -> dict[str, Any]:
    """Zeros for fields that OpenAI's types require; nothing is counted in tokens here."""
    details = {"image_tokens": 0, "text_tokens": 0}
    return {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0, "input_tokens_details": details}


def _event(name: str, picture: Data, body: ImagesBody, **more: Any) -> bytes:
    kind = f"image_generation.{name}"
    fields = {"background": "opaque", "quality": "auto", "output_format": body.output_format or "png"}
    return _frame(kind, {"type": kind, "created_at": int(time.time()), **fields, **picture, **more})


def _frame(name: str, data: Data) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()
