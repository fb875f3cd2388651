"""uvicorn around the application: signals, slots for connections, a callback when it is ready, responses before that.

SIGTERM: new jobs are refused, open ones end or are cancelled after drain_s; exit code 0. SIGINT: the same at once; 130. A
second signal ends what still drains. What hangs after that ends END_S later with exit code 1. All times count from the
signal, however late a busy event loop handles it.
"""

import asyncio
import json
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import FrameType

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from .connections import BACKLOG, TURN, Listener, Places
from .guard import error_body
from .limits import Limits
from .protocol import Protocol

log = logging.getLogger("cascade.serve")
GRACE_S = 2.0  # for responses under way, after the jobs have ended
END_S = 6.0  # from the end of draining to the end of the process


class Server(uvicorn.Server):
    """uvicorn's server. close: called in a thread with the seconds that open jobs may take; after a second signal once
    more, with 0. ready: called when requests are accepted. proxies: addresses trusted for X-Forwarded-For and -Proto, which
    anybody can send."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        close: Callable[[float], None],
        drain_s: float,
        ready: Callable[[], None],
        proxies: Sequence[str] = (),
        limits: Limits | None = None,
    ):
        limits = limits or Limits()
        self.places = Places(limits.connections, limits.address_connections, proxies)
        config = uvicorn.Config(
            app,
            http=partial(Protocol, places=self.places),  # type: ignore[arg-type]
            ws="none",
            lifespan="off",
            loop="asyncio",
            access_log=False,
            server_header=False,
            proxy_headers=bool(proxies),
            forwarded_allow_ips=list(proxies),
            log_config=None,
            backlog=TURN,
            timeout_keep_alive=15,
            timeout_graceful_shutdown=int(GRACE_S),
        )
        super().__init__(config)
        self.close, self.drain_s, self.ready = close, drain_s, ready
        self.told: list[int] = []
        self._told_at: float | None = None
        self._closing: asyncio.Task[None] | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Only record the signal: uvicorn would stop listening and raise it again at the end."""
        self._told_at = self._told_at or time.monotonic()
        self.told.append(sig)

    async def on_tick(self, counter: int) -> bool:
        """Act on recorded signals, every 0.1 s; True ends the server."""
        if self.told and self._closing is None:
            drain_s = self.drain_s if self.told[0] == signal.SIGTERM else 0.0
            log.info("%s: ending, open jobs have %.0f s", signal.Signals(self.told[0]).name, drain_s)
            drain_s = max(0.0, drain_s - (time.monotonic() - (self._told_at or time.monotonic())))
            self._closing = asyncio.create_task(asyncio.to_thread(self.close, drain_s))
        if len(self.told) > 1:
            await asyncio.to_thread(self.close, 0.0)  # end what still drains
            self.force_exit = True
            return True
        return (self._closing is not None and self._closing.done()) or await super().on_tick(counter)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen with slots for connections, then call `ready`."""
        for listener in sockets or ():
            if isinstance(listener, Listener):
                listener.places = self.places
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(BACKLOG)  # asyncio has used TURN as its backlog
        self.ready()


@contextmanager
def starting(listener: socket.socket) -> Iterator[None]:
    """Respond while the models load: alive, not started, not ready. No request waits for the models."""
    server = Server(_not_yet, close=lambda drain_s: None, drain_s=0.0, ready=lambda: None)
    thread = threading.Thread(target=server.run, args=([listener.dup()],), daemon=True, name="starting")
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join()


async def _not_yet(scope: Scope, receive: Receive, send: Send) -> None:
    """Respond without reading a body; each connection ends with its response."""
    status, body, kind = 503, b"starting", "text/plain; charset=utf-8"
    if scope["path"] == "/healthz":
        status, body = 200, b"ok"
    elif scope["path"] not in ("/readyz", "/startupz"):
        error = error_body("starting", "the models are being loaded; try again later", 503)
        body, kind = json.dumps(error).encode(), "application/json"
    headers = {"content-type": kind, "content-length": str(len(body)), "connection": "close", "retry-after": "5"}
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})


def end_within(seconds: float) -> None:
    """Exit with code 1 after `seconds` if something hangs, like a network call of minutes: an orchestrator would kill it
    anyway."""

    def end() -> None:
        log.error("not ended %.0f s after the signal; what still ran is lost", seconds)
        logging.shutdown()
        os._exit(1)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
