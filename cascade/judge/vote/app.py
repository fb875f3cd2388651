"""The page of a vote over HTTP: three files, pictures by opaque names, and votes.

GET gives the page, which says nothing, and pictures, whose names nobody can guess and which are encoded anew: no file name, no
metadata, not even the kind of file leaves. Everything else is a POST with the token of the printed address. Host must be a
loopback name (a page of another site could else reach it by DNS rebinding), Origin this server.
"""

import hmac
import io
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cascade.judge.vote.poll import Poll, StaleError
from cascade.judge.vote.votes import check_voter
from cascade.serve.http.limits import Refused
from cascade.serve.http.origins import authority_of, check_origin
from data.decode import PACK_FORMATS, decode_image, read_file

PAGE = Path(__file__).parent / "page"
FILES = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
HOSTS = ("127.0.0.1", "localhost")
MOST_BYTES = 4096  # of a body
SECURITY = {
    "content-security-policy": "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
STALE = "This ballot was voted on already, or the vote was started again: here is the next."

Answer = Callable[[Request], Awaitable[Response]]


def make_app(poll: Poll, *, token: str, voter: str = "") -> Starlette:
    """voter: whose votes all are; "": the page asks."""

    async def body_of(request: Request) -> dict[str, Any]:
        given = request.headers.get("authorization", "").removeprefix("Bearer ").encode()
        if not hmac.compare_digest(given, token.encode()):
            raise Refused(
                401, "wrong_token", "open the address that the terminal shows, with all that stands behind its #"
            )
        content = b""
        async for part in request.stream():
            content += part
            if len(content) > MOST_BYTES:
                raise Refused(413, "too_large", f"a body of more than {MOST_BYTES:,} bytes")
        try:
            fields = json.loads(content)
        except (ValueError, RecursionError):
            fields = None
        if not isinstance(fields, dict):
            raise Refused(422, "no_object", "the body is no JSON object")
        return fields

    def name_of(fields: dict[str, Any]) -> str:
        return voter or check_voter(fields.get("voter"))

    async def who(request: Request) -> Response:
        await body_of(request)
        return JSONResponse({"voter": voter})

    async def following(request: Request) -> Response:
        name = name_of(await body_of(request))
        return JSONResponse(await run_in_threadpool(poll.next, name))

    async def vote(request: Request) -> Response:
        fields = await body_of(request)
        name, ballot, choice = name_of(fields), str(fields.get("ballot")), str(fields.get("choice"))
        try:
            return JSONResponse(await run_in_threadpool(poll.vote, name, ballot, choice))
        except StaleError:
            return JSONResponse(await run_in_threadpool(poll.next, name) | {"notice": STALE})

    async def undo(request: Request) -> Response:
        name = name_of(await body_of(request))
        return JSONResponse(await run_in_threadpool(poll.undo, name))

    async def picture(request: Request) -> Response:
        found = poll.picture(request.path_params["name"])
        if found is None:
            raise Refused(404, "not_found", "no such picture")
        content = await run_in_threadpool(plain_png, found.path)
        return Response(content, media_type="image/png", headers={"cache-control": "private, max-age=3600"})

    posts = {"/who": who, "/next": following, "/vote": vote, "/undo": undo}
    return Starlette(
        routes=[
            *(Route(path, _file(*named), methods=["GET"]) for path, named in FILES.items()),
            Route("/pictures/{name}", _told(picture), methods=["GET"]),
            *(Route(path, _told(answer), methods=["POST"]) for path, answer in posts.items()),
        ],
        middleware=[Middleware(LocalOnly)],
    )


def plain_png(path: Path) -> bytes:
    """A picture's pixels as a PNG without anything else. Raises ValueError, OSError."""
    image = decode_image(read_file(path), formats=PACK_FORMATS)
    image.info.clear()
    content = io.BytesIO()
    image.save(content, format="PNG", compress_level=1)
    return content.getvalue()


def _file(name: str, media_type: str) -> Answer:
    content = (PAGE / name).read_bytes()

    async def answer(request: Request) -> Response:
        return Response(content, media_type=media_type, headers={"cache-control": "no-cache"})

    return answer


def _told(answer: Answer) -> Answer:
    """Mistakes as one line of JSON."""

    async def told(request: Request) -> Response:
        try:
            return await answer(request)
        except Refused as error:
            return JSONResponse({"error": str(error)}, status_code=error.status)
        except ValueError as error:
            return JSONResponse({"error": str(error)}, status_code=422)
        except OSError as error:
            return JSONResponse({"error": f"the vote does not count: {error.strerror}"}, status_code=507)

    return told


class LocalOnly:
    """Refuses other hosts and other sites' pages, and adds the headers that keep a page to itself."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] += [(name.encode(), value.encode()) for name, value in SECURITY.items()]
            await send(message)

        request = Request(scope)
        try:
            authority = authority_of(request.headers.get("host", ""))
            if authority is None or authority.name not in HOSTS:
                raise Refused(421, "wrong_host", "this page answers to 127.0.0.1 and localhost only")
            if scope["method"] not in ("GET", "HEAD"):
                check_origin(request.headers, frozenset())
        except Refused as error:
            await JSONResponse({"error": str(error)}, status_code=error.status)(scope, receive, guarded)
            return
        await self.app(scope, receive, guarded)
