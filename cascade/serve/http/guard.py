"""Outermost layer of the application: access, limits of bodies, response headers and the request log.

Plain ASGI, so that streams pass through untouched. A body is read here as a whole, before the app sees it.
"""

import asyncio
import json
import logging
import re
import secrets
import time
from collections import Counter
from contextlib import AbstractAsyncContextManager, AsyncExitStack, nullcontext
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .. import page
from . import logs
from .addresses import client_of, plain
from .keys import Keys, Share
from .limits import NOBODY, Guesses, Limits, Refused
from .metrics import HttpMetrics
from .origins import SHOWN_CHARACTERS, Origin, authority_of, check_origin
from .paths import path_of
from .reads import Reads

log = logging.getLogger("cascade.serve")
PROBES = ("/healthz", "/readyz", "/startupz")
PUBLIC = frozenset((*page.ROUTES, *PROBES, "/docs", "/openapi.json"))
REQUEST = re.compile(r"[\w.:@=+/-]{1,128}", re.ASCII)  # ids accepted from clients and proxies
JOB = re.compile(r"/v1/jobs/([\w-]{1,64})(?:/|$)", re.ASCII)
COOKIE = "cascade_key"  # for <img> and EventSource, which cannot send our headers
SECURITY = {
    "content-security-policy": "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
SECURITY_HEADERS = [(name.encode(), value.encode()) for name, value in SECURITY.items()]
VALUES = 50_000  # commas in a body (base64 has none): parsing more values would hold up everyone
LEFT = 499  # status in log and metrics, as in nginx: the client left before the end of the response
LINGER_S = 5.0  # how long to read what a refused client still sends, else a reset overtakes the response
SILENT_S = 1.0  # silence that ends this early
LINGERING = 64  # clients at a time; others are closed without it


def error_body(code: str, message: str, status: int = 422) -> dict[str, Any]:
    """Body of every error, in the form that OpenAI clients read too."""
    kind = "server_error" if status >= 500 else "rate_limit_error" if status == 429 else "invalid_request_error"
    line = " ".join(message.split()).encode("utf-8", "replace").decode()  # JSON may contain lone surrogates
    return {"error": {"code": code, "message": line, "type": kind}}


def error_headers(error: Refused) -> dict[str, str]:
    """Retry-After, in whole seconds, if the refusal has one."""
    return {} if error.retry_after is None else {"retry-after": str(max(1, round(error.retry_after + 0.5)))}


class Guard:
    """ASGI application around another. hosts: names allowed in the Host header, so that pages of other sites cannot reach a
    server on loopback; None allows any. origins: pages from these may send state-changing requests, besides those of the
    requested host. root_path: where a proxy mounts the server; requests may arrive with or without it."""

    def __init__(
        self,
        app: ASGIApp,
        limits: Limits,
        metrics: HttpMetrics,
        *,
        keys: Keys | None,
        hosts: frozenset[str] | None = None,
        origins: frozenset[Origin] = frozenset(),
        root_path: str = "",
    ):
        self.app, self.limits, self.metrics, self.keys, self.hosts = app, limits, metrics, keys, hosts
        self.origins, self.root_path = origins, root_path
        self._bodies: Counter[str] = Counter()  # bytes of bodies held now, by owner
        self.guesses = Guesses()
        self._working = self._lingering = 0  # requests now
        self._reads = Reads()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check a request, pass it on and log it."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        began, status, is_whole, has_left = time.perf_counter(), 0, False, False
        scope = under(self.root_path, scope)

        async def hear() -> Message:
            nonlocal has_left
            message = await receive()
            has_left = has_left or (message["type"] == "http.disconnect" and not is_whole)
            return message

        about = scope["about"] = _about(scope)
        logs.begin(about)
        turn = AsyncExitStack()

        async def answer(message: Message) -> None:
            nonlocal status, is_whole
            if message["type"] == "http.response.start":
                await turn.aclose()  # the response is ready; reading it may be slow
                status = message["status"]
                names = {name.lower() for name, _ in message.get("headers", ())}
                extra = [pair for pair in SECURITY_HEADERS if pair[0] not in names]
                extra.append((b"x-request-id", about.request.encode()))
                if b"cache-control" not in names:
                    extra.append((b"cache-control", b"no-store"))
                message["headers"] = [*message.get("headers", ()), *extra]
            await send(message)
            is_whole = message["type"] == "http.response.body" and not message.get("more_body")

        held, unread = 0, _has_body(Headers(scope=scope))
        self._working += 1
        try:
            if self._working > self.limits.requests and scope["path"] not in PROBES:
                raise Refused(503, "busy", "too many requests at once; try again later", retry_after=5)
            if not scope["path"]:
                return await redirect(f"{self.root_path}/", answer)
            scope["owner"] = about.key = self._owner(scope)
            scope["share"] = self.keys.share(about.key) if self.keys else Share()
            body = await self._body(scope, hear) if unread else b""
            held, unread = len(body), False
            if body.count(b",") > VALUES:
                raise Refused(413, "too_many_values", f"a body with more than {VALUES:,} commas")
            async with turn:
                if await turn.enter_async_context(self._turn(scope, hear)):
                    await self.app(scope, _replay(body, hear), answer)
            if has_left or not is_whole:
                status = LEFT
        except Refused as error:
            self.metrics.refused.labels(error.code).inc()
            left_before = has_left
            await self._turn_away(error, hear if unread else None, answer)
            if left_before:
                status = LEFT
        except asyncio.CancelledError:  # the server ends before this request does
            if not status:
                await refuse(Refused(503, "shutting_down", "the server is shutting down", retry_after=30), answer)
        except Exception:
            status = status or 500  # uvicorn's response
            raise
        finally:
            status = status or LEFT
            self._working -= 1
            self._bodies[about.key] -= held
            route = path_of(scope["path"])
            spent_s = time.perf_counter() - began
            self.metrics.requests.labels(route, _method(scope), status).inc()
            self.metrics.request_s.labels(route).observe(spent_s)
            fields = {"method": _method(scope), "route": route, "status": status, "ms": round(1000 * spent_s)}
            log.info("%s %s %d %d ms", *fields.values(), extra={"said": fields})

    async def _turn_away(self, error: Refused, receive: Receive | None, answer: Send) -> None:
        """Send an error and close the connection. receive: of a client that still sends a body, which is drained so that
        the client can read the error."""
        lingers = receive is not None and self._lingering < LINGERING
        await refuse(error, answer, closes=True, is_last=not lingers)
        if receive is not None and lingers:
            self._lingering += 1
            try:
                await _linger(receive)
            finally:
                self._lingering -= 1
            await answer({"type": "http.response.body", "body": b""})

    def _owner(self, scope: Scope) -> str:
        """Owner of the request's key. Raises Refused for a wrong host, another site's page and a wrong key."""
        if scope["path"] in PROBES:
            return NOBODY  # orchestrators use a pod's address as host
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        is_ours = self.hosts is None or ((authority := authority_of(host)) is not None and authority.name in self.hosts)
        if not (is_ours or self._may_scrape(scope, headers)):
            text = f"Host says {host[:SHOWN_CHARACTERS]!a}; this server answers to loopback names and those of --allow-host"
            raise Refused(421, "wrong_host", text)
        if scope["method"] not in ("GET", "HEAD"):
            check_origin(headers, self.origins)
        if self.keys is None or scope["path"] in PUBLIC:
            return NOBODY
        owner = self._owner_of_key(scope, headers)
        if owner is None:
            raise Refused(401, "invalid_api_key", "send a valid key: Authorization: Bearer KEY")
        return owner

    def _may_scrape(self, scope: Scope, headers: Headers) -> bool:
        """Whether /metrics is requested with a valid key: collectors, too, use a pod's address as host."""
        return scope["path"] == "/metrics" and self._owner_of_key(scope, headers) is not None

    def _owner_of_key(self, scope: Scope, headers: Headers) -> str | None:
        """Owner of the request's key, None if it is wrong. Raises Refused after too many wrong keys."""
        if self.keys is None:
            return None
        key = _key(headers)
        owner = self.keys.owner(key)
        if key:
            self.guesses.tell(scope["about"].client, key, owner)
        return owner

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        """Read the body. Raises Refused if it is too large, too slow, incomplete, not expected, or if too much is being
        uploaded."""
        if scope["path"] in PUBLIC:
            raise Refused(400, "no_body_here", "nothing is read here; send no body")
        length = Headers(scope=scope).get("content-length", "0")
        expected = int(length) if length.isdecimal() and len(length) < 19 else 0
        limit, owner = self.limits.body_bytes, scope["owner"]
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self.limits.body_s):
                while expected <= limit:
                    if (message := await receive())["type"] != "http.request":
                        raise Refused(400, "incomplete", "the connection was closed before the body was there")
                    parts.append(message["body"])
                    size += len(message["body"])
                    self._bodies[owner] += len(message["body"])
                    if self._is_too_much(owner):
                        raise Refused(503, "busy", "too much is being uploaded; try again later", retry_after=5)
                    if size > limit or not message.get("more_body"):
                        break
        except TimeoutError:
            self._bodies[owner] -= size
            raise Refused(408, "too_slow", f"the body did not arrive within {self.limits.body_s:.0f} s") from None
        except BaseException:
            self._bodies[owner] -= size
            raise
        if max(size, expected) > limit:
            self._bodies[owner] -= size
            raise Refused(413, "too_large", f"a body of more than {limit:,} bytes")
        return b"".join(parts)

    def _turn(self, scope: Scope, receive: Receive) -> AbstractAsyncContextManager[bool]:
        """A turn for GET and HEAD, held until the response begins; probes need none. Yields whether the client is still there."""
        if scope["method"] not in ("GET", "HEAD") or scope["path"] in PROBES:
            return nullcontext(True)
        return self._reads.turn((scope["owner"], "" if scope["owner"] else client_of(scope["about"].client)), receive)

    @property
    def _reading(self) -> int:
        return self._bodies.total()

    def _is_too_much(self, owner: str) -> bool:
        """Whether the bodies held now are too large together, or those of this key: it may hold one body, and beyond that
        no more than it leaves free for others."""
        free = self.limits.bodies_bytes - self._reading
        return free < 0 or (owner != NOBODY and self._bodies[owner] > max(free, self.limits.body_bytes))


def under(root_path: str, scope: Scope) -> Scope:
    """A scope as the routes expect it, whether or not a proxy has removed root_path. The path is "" if only root_path was
    requested."""
    path = scope["path"]
    if root_path and (path == root_path or path.startswith(f"{root_path}/")):
        path = path.removeprefix(root_path)
    return {**scope, "path": path, "root_path": root_path}


async def redirect(path: str, send: Send) -> None:
    """Redirect to a path, below which the page's relative links work; without a host, since a proxy may use another name."""
    headers = [(b"location", path.encode()), (b"content-length", b"0")]
    await send({"type": "http.response.start", "status": 308, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


async def refuse(error: Refused, send: Send, *, closes: bool = False, is_last: bool = True) -> None:
    """Send an error response; the caller counts it. closes: end the connection. is_last: no more of the body follows."""
    body = json.dumps(error_body(error.code, str(error), error.status)).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body)), **error_headers(error)}
    if closes:
        headers["connection"] = "close"
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": pairs})
    await send({"type": "http.response.body", "body": body, "more_body": not is_last})


async def _linger(receive: Receive) -> None:
    """Discard the body until it ends, the client leaves or is silent."""
    message: Message = {"type": "http.request", "more_body": True}
    try:
        async with asyncio.timeout(LINGER_S):
            while message["type"] == "http.request" and message.get("more_body"):
                async with asyncio.timeout(SILENT_S):
                    message = await receive()
    except TimeoutError:
        return


def _has_body(headers: Headers) -> bool:
    return headers.get("content-length", "0") != "0" or "transfer-encoding" in headers


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body once, then the messages of the connection."""
    waiting = [body]

    async def again() -> Message:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        while (message := await receive())["type"] == "http.request":
            pass  # skip the rest of an empty body
        return message

    return again


def _about(scope: Scope) -> logs.About:
    """Context for the log. The request's id is the client's X-Request-Id if that is well-formed, else a new one."""
    request_id, job = Headers(scope=scope).get("x-request-id", ""), JOB.search(scope["path"])
    return logs.About(
        request=request_id if REQUEST.fullmatch(request_id) else f"req_{secrets.token_hex(8)}",
        job=job[1] if job else "",
        client=plain((scope.get("client") or ("", 0))[0]),
    )


def _method(scope: Scope) -> str:
    """The method as a metric's label, which takes few values."""
    return (
        scope["method"] if scope["method"] in ("GET", "POST", "DELETE", "HEAD", "OPTIONS", "PUT", "PATCH") else "other"
    )


def _key(headers: Headers) -> str:
    scheme, _, key = headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "") or _cookie(headers)


def _cookie(headers: Headers) -> str:
    """Value of our cookie. Cookies that other servers on this host set may be malformed."""
    pairs = (part.strip().partition("=") for part in headers.get("cookie", "").split(";"))
    return next((value.strip('"') for name, _, value in pairs if name == COOKIE), "")
