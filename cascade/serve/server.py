"""uvicorn around the application: signals, slow connections, one line when it is ready.

SIGTERM: new jobs are refused, open ones end or are cancelled after drain_s, exit code 0. SIGINT: the same at once, 130. A second
signal ends what still waits.
"""

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Sequence
from types import FrameType

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_S = 15.0  # a request's head must arrive within
GRACE_S = 5.0  # answers under way, after the jobs have ended
CONNECTIONS = 1000
BACKLOG = 512


class Protocol(H11Protocol):
    """Closes connections whose head does not arrive: they would hold a place for ever."""

    _head: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._no_longer()

    def send_400_response(self, msg: str) -> None:
        """To what is no HTTP. Where an answer was begun there is no place for another one; where none was, the application, which
        would begin one, is told that nobody listens."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:
            self.transport.close()
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()

    def _wait_for_head(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._no_longer()
        elif self._head is None:
            self._head = self.loop.call_later(HEAD_S, self._too_late)

    def _no_longer(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _too_late(self) -> None:
        self._head = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()


class Server(uvicorn.Server):
    """close: called in a thread with the seconds that open jobs may take; at a second signal again, with none. ready: called when
    requests are taken. proxies: addresses from which X-Forwarded-For and -Proto are believed; anybody can send these."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        close: Callable[[float], None],
        drain_s: float,
        ready: Callable[[], None],
        proxies: Sequence[str] = (),
    ):
        config = uvicorn.Config(
            app,
            http=Protocol,
            ws="none",
            lifespan="off",
            loop="asyncio",
            access_log=False,
            server_header=False,
            proxy_headers=bool(proxies),
            forwarded_allow_ips=list(proxies),
            log_config=None,
            limit_concurrency=CONNECTIONS,
            timeout_keep_alive=15,
            timeout_graceful_shutdown=int(GRACE_S),
        )
        super().__init__(config)
        self.close, self.drain_s, self.ready = close, drain_s, ready
        self.told: list[int] = []
        self._closing: asyncio.Task[None] | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Only notes it: uvicorn would stop listening, and raise the signal again at the end."""
        self.told.append(sig)

    async def on_tick(self, counter: int) -> bool:
        """Every 0.1 s."""
        if self.told and self._closing is None:
            drain_s = self.drain_s if self.told[0] == signal.SIGTERM else 0.0
            self._closing = asyncio.create_task(asyncio.to_thread(self.close, drain_s))
        if len(self.told) > 1:
            await asyncio.to_thread(self.close, 0.0)  # what still drains ends now
            self.force_exit = True
            return True
        return (self._closing is not None and self._closing.done()) or await super().on_tick(counter)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready()


def listen(host: str, port: int) -> socket.socket:
    """A bound socket. A client that acknowledges nothing for a minute is dropped by the system. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # the protocol is named, else asyncio leaves Nagle's delay on and small answers wait 40 ms
    found = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            with contextlib.suppress(OSError):
                found.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 60_000)
        found.bind((host, port))
        found.listen(BACKLOG)
    except (OSError, TypeError, ValueError) as error:
        found.close()
        why = getattr(error, "strerror", None) or "no address"
        raise ValueError(f"--host {ascii(host)[1:-1]} --port {port}: {why}; choose another") from None
    return found
