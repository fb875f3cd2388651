"""The routes. Plain functions run in worker threads, so that neither disk nor text encoder blocks the event loop; the few
`async` ones wait for events. A refusal is a `Refused` or a `ValueError`; both become one line of JSON."""

import logging
import sqlite3
from contextlib import AbstractAsyncContextManager, nullcontext
from pathlib import Path
from typing import Annotated, Any, cast

from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI, Header, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import ASGIApp, Receive, Scope, Send

from data.errors import nearest

from .. import page
from ..http import logs
from ..http.guard import Guard, error_body, error_headers
from ..http.keys import Keys
from ..http.limits import Refused, mistakes
from ..http.origins import Origin
from ..jobs.job import Data
from . import openai
from .answers import answer, is_known, tag_of
from .bodies import ImagesBody, JobBody, RefineBody, job_request
from .docs import docs_page
from .feed import ROOM, feed, is_told, positions
from .models import models
from .schema import Routes
from .service import Service
from .sse import EventStream, counted, frames
from .views import Accepted, ImagesView, JobsView, JobView, ModelsView, ModelView, accepted, cursor, mounted

log = logging.getLogger(__name__)
PROBES_AT_ONCE = 2  # threads of their own, since others may be busy for long
UPLOADS = 2  # pictures decoded at once: one of 25 megapixels takes about 300 MB
ERROR_CODES = {400: "bad_request", 404: "not_found", 405: "method_not_allowed"}
Responses = dict[int | str, dict[str, Any]]


def stream(said: str) -> Responses:
    """Description of a stream of server-sent events."""
    return {200: {"description": said, "content": {"text/event-stream": {}}}}  # no schema can describe a stream


EVENT_STREAM = stream(
    "Events stage_started, preview and stage_finished; the last one is held, finished, failed or cancelled. The data of each "
    "is one line of JSON. Lines that begin with a colon are heartbeats."
) | {204: {"description": "No events are left."}}
IMAGE_STREAM = stream(
    "The pictures as JSON; with `stream`, the events image_generation.partial_image and image_generation.completed, or error."
)
IMAGE_STREAM[200]["model"] = ImagesView
SAME: Responses = {304: {"description": "Not modified, by If-None-Match."}}
OPEN: Responses = {409: {"description": "The job has not ended."}}
NOT_READY: Responses = {503: {"description": "The reason.", "content": {"text/plain": {"schema": {"type": "string"}}}}}


class PNG(Response):
    """A response with a PNG picture."""

    media_type = "image/png"


def create_app(
    service: Service,
    *,
    keys: Keys | None = None,
    hosts: frozenset[str] | None = None,
    origins: frozenset[Origin] = frozenset(),
    root_path: str = "",
) -> Guard:
    """The application of one server; `Guard` explains the options."""
    app, limits, metrics = routes(service, keyed=keys is not None), service.limits, service.metrics
    return Guard(app, limits, metrics, keys=keys, hosts=hosts, origins=origins, root_path=root_path)


def routes(service: Service, *, keyed: bool = False) -> Routes:
    """The application without the guard: the caller must set `owner` in the scope."""
    app = Routes(keyed=keyed, title=f"Cascade {service.name}", docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.service = service
    app.add_middleware(Informed, service=service)
    add_errors(app)
    add_jobs(app, service)
    add_openai(app, service)
    add_pages(app, service)
    return app


class Informed:
    """Middleware that passes on what the guard has put into the scope: limits of the owner to the service, context to the
    log. The guard may run in another process."""

    def __init__(self, app: ASGIApp, service: Service):
        self.app, self.service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and "share" in scope:
            self.service.shares[scope["owner"]] = scope["share"]
            logs.begin(scope["about"])
        await self.app(scope, receive, send)


def owner(request: Request) -> str:
    """Owner of the request's key."""
    return cast(str, request.scope["owner"])


def is_openais(request: Request) -> bool:
    """Whether this is OpenAI's route, on which mistakes are 400 and name the field."""
    return request.scope["path"].endswith(openai.PATH)


def root_of(request: Request) -> str:
    """The path under which a proxy mounts the server."""
    return cast(str, request.scope.get("root_path", ""))


def add_errors(app: FastAPI) -> None:
    """Add handlers that give every error the same form, in one line."""

    @app.exception_handler(Refused)
    def refused(request: Request, error: Refused) -> JSONResponse:
        service: Service = request.app.state.service
        service.metrics.refused.labels(error.code).inc()
        status = error.status
        if is_openais(request) and status == 422:
            status = 400
        body = error_body(error.code, str(error), status)
        if is_openais(request):
            body["error"]["param"] = error.param
        return JSONResponse(body, status, error_headers(error))

    @app.exception_handler(sqlite3.Error)
    @app.exception_handler(OSError)
    def unreadable(request: Request, error: Exception) -> JSONResponse:
        log.error("the store: %s", error)
        text = "the store cannot be read or written now; try again later"
        return refused(request, Refused(503, "storage_failed", text, retry_after=5))

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        location = ".".join(str(part) for part in first["loc"][1:])
        reason = first["msg"]
        if first["type"] == "json_invalid":
            location, reason = "body", f"not JSON at character {first['loc'][-1]}: {first['ctx']['error']}"
        if first["type"] == "extra_forbidden":
            fields = ImagesBody.model_fields if is_openais(request) else {*JobBody.model_fields, "from", "pick"}
            reason = f"no such field{nearest(str(first['loc'][-1]), fields)}"
        if not location and "json" not in request.headers.get("content-type", ""):
            reason = "send JSON, with the header Content-Type: application/json"
        field = str(first["loc"][1])[:200] if len(first["loc"]) > 1 and first["type"] != "json_invalid" else None
        return refused(request, Refused(422, "invalid_request", f"{location[:200] or 'body'}: {reason}", param=field))

    @app.exception_handler(HTTPException)
    def http(request: Request, error: HTTPException) -> JSONResponse:
        code = ERROR_CODES.get(error.status_code, "error")
        headers = {name.lower(): value for name, value in (error.headers or {}).items()}
        if error.status_code == 405:  # one path may have several routes
            matches = (route for route in app.routes if route.matches(request.scope)[0] != Match.NONE)
            headers["allow"] = ", ".join(
                sorted({method for route in matches for method in getattr(route, "methods", ())})
            )
        return JSONResponse(error_body(code, str(error.detail)), error.status_code, headers)

    @app.exception_handler(Exception)
    def defect(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse(error_body("internal", "a defect of the server; its log says more", 500), 500)


def add_jobs(app: FastAPI, service: Service) -> None:
    """Add the routes of the native API."""

    uploads = CapacityLimiter(UPLOADS)
    in_turn: dict[str, AbstractAsyncContextManager[object]] = {}  # one upload of a key at a time

    @app.post("/v1/jobs", status_code=202, summary="Start a job")
    async def create(request: Request, body: JobBody) -> Accepted:
        """Start a job: `num` images for each of `prompts`, `labels` (names or numbers of classes) or pairs of them, as many of
        both or one with all of the other (neither: unconditional), or for `image`, which is enlarged. Stage names and limits
        are in /v1/models. seed: random if left out. until: hold after this stage. size: [width, height] of the result in px.
        settings: {stage: {num_steps, guidance_scale, aug_sigma, sampler, ...}}. image: a PNG, JPEG or WebP in base64. fit:
        first shrink the image until its shorter side is what its first stage was trained to enlarge. seconds: for the networks,
        all images together; steps say which num_steps they allow, at most the stages' own."""

        def start() -> Accepted:
            service.admit(owner(request))
            with mistakes():
                plan = job_request(body, service.cascade, service.limits, service.speeds)
                return accepted(service.create(owner(request), plan), root_of(request))

        if not body.image:
            return await to_thread.run_sync(start)
        async with in_turn.setdefault(owner(request), CapacityLimiter(1)) if owner(request) else nullcontext():
            return await to_thread.run_sync(start, limiter=uploads)

    @app.get("/v1/jobs", responses={200: {"model": JobsView}, **SAME}, summary="List jobs")
    def listed(
        request: Request, limit: Annotated[int, Query(ge=1, le=200)] = 50, before: Annotated[str, Query()] = ""
    ) -> Response:
        """List the jobs of this key, newest first. `next` is the value of `before` for the next page, null at the end.
        Supports If-None-Match with the ETag of an earlier response."""
        listing = service.jobs(owner(request), limit, cursor(before))
        return answer(request.headers, mounted(listing, root_of(request)))

    @app.get("/v1/jobs/{job}", responses={200: {"model": JobView}, **SAME}, summary="Get a job")
    def job(request: Request, job: str) -> Response:
        """State and pictures of a job. Supports If-None-Match."""
        view = service.describe(service.row(owner(request), job))
        return answer(request.headers, mounted(view, root_of(request)))

    @app.get("/v1/jobs/{job}/events", response_class=Response, responses=EVENT_STREAM, summary="Follow a job")
    async def events(
        request: Request, job: str, last_event_id: Annotated[str, Header()] = "", after: Annotated[str, Query()] = ""
    ) -> Response:
        """Follow a job by server-sent events. Last-Event-ID, or ?after=, resumes with the milestones after that event and
        the newest previews."""
        position = last_event_id or after or "0"
        if not (position.isascii() and position.isdecimal() and len(position) < 19):
            raise Refused(422, "invalid_request", "Last-Event-ID: not a number of an event")
        target = await to_thread.run_sync(service.find, owner(request), job)
        if target.has_ended and not target.since(int(position), previews=False):
            return Response(status_code=204)  # tells an EventSource not to reconnect
        slot = service.place(owner(request))
        chunks = frames(slot, target, int(position), service.preview, pace=service.pace, root_path=root_of(request))
        return EventStream(chunks, service.limits)

    @app.get("/v1/events", response_class=Response, responses=EVENT_STREAM, summary="Follow several jobs")
    async def events_of_all(
        request: Request,
        jobs: Annotated[str, Query(max_length=ROOM)],
        last_event_id: Annotated[str, Header(max_length=ROOM)] = "",
    ) -> Response:
        """Follow up to 256 jobs over one stream. jobs: JOB,JOB,..., or JOB:NUMBER to resume after that event. Data name the
        `job`; an event's id has the positions of all jobs (a:12,b:3) and resumes as Last-Event-ID or as jobs. A job that is
        not there gives one event `gone`. Previews of the first job come most often."""
        at = positions(jobs, "jobs")
        if last_event_id:
            at |= {name: n for name, n in positions(last_event_id, "Last-Event-ID").items() if name in at}
        targets = await to_thread.run_sync(service.find_all, owner(request), list(at))
        if is_told(targets, at):
            return Response(status_code=204)
        slot = service.place(owner(request))
        chunks = feed(slot, targets, at, service.preview, pace=service.pace, root_path=root_of(request))
        return EventStream(chunks, service.limits)

    @app.delete("/v1/jobs/{job}", status_code=204, summary="Cancel a job")
    def cancel(request: Request, job: str) -> None:
        """Cancel a job; without effect if it has ended."""
        service.cancel(owner(request), job)

    @app.post("/v1/jobs/{job}/refine", status_code=202, summary="Refine pictures of a job")
    def refine(request: Request, job: str, body: RefineBody) -> Accepted:
        """Continue stored pictures of a stage as a new job. from: the stage; by default the last one with pictures, other
        than the final stage. pick: numbers of pictures, by default all. until: hold after this stage. settings: for the
        stages that follow, over those of the job."""
        service.admit(owner(request))
        with mistakes():
            return accepted(service.refine(owner(request), job, body), root_of(request))

    @app.delete("/v1/jobs/{job}/pictures", status_code=204, responses=OPEN, summary="Remove a job and its pictures")
    def remove(request: Request, job: str) -> None:
        """Permanently remove an ended job and all its pictures; a second time without effect. 409 if the job has not ended."""
        service.remove(owner(request), job)

    @app.head("/v1/jobs/{job}/stages/{stage}/{k}.png", include_in_schema=False)
    @app.get("/v1/jobs/{job}/stages/{stage}/{k}.png", response_class=PNG, responses=SAME, summary="Get a picture")
    def picture(request: Request, job: str, stage: str, k: int) -> Response:
        """A stored picture, number `k` of the job. Caches do not keep it, so that it is gone after signing out or removing
        it; supports If-None-Match."""
        row = service.picture_row(owner(request), job, stage, k)
        headers = {"etag": f'"{row.digest}"'}
        if is_known(request.headers, headers["etag"]):
            return Response(status_code=304, headers=headers)
        return PNG(service.read(row), headers=headers)


def add_openai(app: FastAPI, service: Service) -> None:
    """Add the routes that OpenAI clients know."""

    @app.get("/v1/models", responses={200: {"model": ModelsView}, **SAME}, summary="List models")
    def listed(request: Request) -> Response:
        """The served cascade: stages, settings and their ranges, limits. Supports If-None-Match."""
        return answer(request.headers, models(service))

    @app.get("/v1/models/{model}", responses={200: {"model": ModelView}}, summary="Get a model")
    def named(model: str) -> Data:
        """Details of one model."""
        if model != service.name:
            raise Refused(404, "model_not_found", f"model {model[:60]!r} is not here; there is {service.name!r}")
        return cast(Data, models(service)["data"][0])

    @app.post(openai.PATH, responses=IMAGE_STREAM, summary="Generate images")
    async def generate(request: Request, body: ImagesBody) -> Any:
        """OpenAI's images.generate. Prefer `stream`: without it nothing is sent before all is done, and a proxy may time
        out (nginx after 60 s), which cancels the work. Extensions: label, seed, steps, seconds, guidance, negative_prompt,
        settings {stage: {...}}."""
        await to_thread.run_sync(service.admit, owner(request))
        slot = service.place(owner(request)) if body.stream else None
        job = await to_thread.run_sync(openai.start, service, owner(request), body)
        if slot is not None:
            chunks = counted(slot, openai.streamed(service, owner(request), body, job))
            return EventStream(chunks, service.limits, left=job.cancel)
        return await openai.unless_left(request.receive, job, openai.whole(service, owner(request), body, job))


def add_pages(app: FastAPI, service: Service) -> None:
    """Add the page, its documentation, probes and metrics."""

    probes = CapacityLimiter(PROBES_AT_ONCE)

    @app.head("/healthz", include_in_schema=False)
    @app.get("/healthz", response_class=PlainTextResponse, responses=NOT_READY, summary="Liveness probe")
    async def health() -> Response:
        """For orchestrators: 503 if only a restart helps."""
        reason = await to_thread.run_sync(lambda: service.what_died, limiter=probes)
        return PlainTextResponse(reason or "ok", 503 if reason else 200)

    @app.head("/readyz", include_in_schema=False)
    @app.get("/readyz", response_class=PlainTextResponse, responses=NOT_READY, summary="Readiness probe")
    async def ready() -> Response:
        """For orchestrators: 503 if new jobs are refused; a full queue does not count."""
        reason = await to_thread.run_sync(lambda: service.why_not_ready, limiter=probes)
        return PlainTextResponse(reason or "ready", 503 if reason else 200)

    @app.head("/startupz", include_in_schema=False)
    @app.get("/startupz", response_class=PlainTextResponse, summary="Start-up probe")
    def started() -> str:
        """For orchestrators: 200 once the models are loaded and measured; from then on the other two probes give the state."""
        return "started"

    @app.get("/metrics", response_class=PlainTextResponse, summary="Metrics")
    def metrics() -> Response:
        """Metrics for Prometheus."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/docs", include_in_schema=False)
    def docs(request: Request) -> HTMLResponse:
        """The description of the API as a page."""
        return HTMLResponse(docs_page(app.openapi(), str(request.base_url)))

    for route, name in page.ROUTES.items():
        add_file(app, route, page.FOLDER / name, page.FILES[name])


def add_file(app: FastAPI, route: str, path: Path, kind: str) -> None:
    """Serve a file of the page; kind: its media type. Caches ask each time whether it has changed: 304 if not, by If-None-Match."""

    @app.head(route, include_in_schema=False)
    @app.get(route, include_in_schema=False)
    def file(request: Request) -> Response:
        headers = {"etag": tag_of(path.read_bytes()), "cache-control": "no-cache"}
        if is_known(request.headers, headers["etag"]):
            return Response(status_code=304, headers=headers)
        return FileResponse(path, media_type=kind, headers=headers)
