"""A connection of uvicorn and h11 that one client cannot use to hold up the others.

A head must arrive in time and be small; of what came only a few events are handled before other connections have their turn; a body
in tiny chunks is cut; and whatever is wrong, there is one answer and no traceback.
"""

import asyncio
import json
from http import HTTPStatus
from typing import Any

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from .addresses import client_of, plain
from .connections import Places
from .guard import error_body

HEAD_S = 15.0  # a request's head must arrive within
ENDING_S = 2.0  # after an error
READ_BYTES = 16 << 10  # at once: also of heads and trailers, since h11 bounds only what is incomplete
HEADERS = 100
EVENTS = 64  # of one connection in a turn of the event loop; each takes some 40 us
CHUNKS = 1000  # of a body, and one more for each CHUNK_BYTES
CHUNK_BYTES = 1024


class Connection(h11.Connection):
    """h11's, which hands out a bounded number of events a turn. Raises RemoteProtocolError also for floods."""

    def __init__(self) -> None:
        super().__init__(h11.SERVER)
        self.turn = 0  # events
        self.complaint = (400, "")  # of the last error
        self._chunks = self._bytes = 0

    def next_event(self) -> Any:
        if self.turn >= EVENTS:
            return h11.NEED_DATA
        self.turn += 1
        try:
            event = super().next_event()
            self._check(event)
        except h11.RemoteProtocolError as error:
            self.complaint = (error.error_status_hint, str(error))
            raise
        return event

    def _check(self, event: Any) -> None:
        if isinstance(event, h11.Request):
            self._chunks = self._bytes = 0
            if len(event.headers) > HEADERS:
                raise h11.RemoteProtocolError(f"more than {HEADERS} headers", error_status_hint=431)
            named = {name for name, _ in event.headers}
            if b"transfer-encoding" in named and (b"content-length" in named or event.http_version < b"1.1"):
                # where a proxy before us believes the other one, what is a body here is a request there
                raise h11.RemoteProtocolError("Transfer-Encoding with Content-Length, or of HTTP/1.0")
        elif isinstance(event, h11.Data):
            self._chunks += 1
            self._bytes += len(event.data)
            if self._chunks > CHUNKS + self._bytes // CHUNK_BYTES:
                raise h11.RemoteProtocolError("a body in too many tiny chunks", error_status_hint=413)


class Protocol(H11Protocol):
    """places: where it says whether it waits for a request."""

    conn: Connection
    address = ""
    _head: asyncio.TimerHandle | None = None
    _is_due = _is_ending = False

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        places: Places,
    ):
        super().__init__(config, server_state, app_state, _loop)
        self.conn, self.places = Connection(), places

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        transport.max_size = READ_BYTES  # type: ignore[attr-defined]  # of asyncio's own; 256 KiB else
        super().connection_made(transport)
        if self.client:
            self.client = (plain(self.client[0]), self.client[1])  # as log and --trust-proxy have it
            self.address = client_of(self.client[0])
        self._settle()

    def data_received(self, data: bytes) -> None:
        if not self._is_ending:
            super().data_received(data)
            self._settle()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._no_longer()
        self.places.works(self)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self._is_working and not self.transport.is_closing():
            self.places.waits(self, self.address)

    def handle_events(self) -> None:
        self.conn.turn = 0
        super().handle_events()
        if self.conn.turn >= EVENTS and not (self._is_due or self._is_ending or self.transport.is_closing()):
            self.transport.pause_reading()
            self._is_due = True
            self.loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        self._is_due = False
        if self._is_ending or self.transport.is_closing():
            return
        self.handle_events()
        self._settle()
        if not (self._is_due or self.flow.read_paused):
            self.transport.resume_reading()

    def send_400_response(self, msg: str) -> None:
        """Once, and nothing behind an answer that has begun."""
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True  # what it says from here on would be a second answer
            cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            status, why = self.conn.complaint
            body = json.dumps(error_body("bad_request", why or msg, status)).encode()
            headers = [
                ("content-type", "application/json"),
                ("content-length", str(len(body))),
                ("connection", "close"),
            ]
            start = h11.Response(status_code=status, headers=headers, reason=HTTPStatus(status).phrase)
            for event in (start, h11.Data(data=body)):
                self.transport.write(self.conn.send(event) or b"")
            self.conn.send(h11.EndOfMessage())
        self._end()

    def _end(self) -> None:
        """What still comes is thrown away for a moment: closed at once, a reset would overtake the answer."""
        if self._is_ending or self.transport.is_closing():
            return
        self._is_ending = True
        self._no_longer()
        self.transport.write_eof()
        self.transport.resume_reading()
        self.loop.call_later(ENDING_S, self.transport.close)
        self.places.waits(self, self.address)

    def drop(self) -> None:
        """For a newcomer."""
        self.transport.abort()

    @property
    def _is_working(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _settle(self) -> None:
        """Waits for a head, or answers."""
        if self._is_ending or self.transport.is_closing():
            return
        if self._is_working:
            self._no_longer()
            self.places.works(self)
            return
        self.places.waits(self, self.address)
        if self._head is None:
            self._head = self.loop.call_later(HEAD_S, self._too_late)

    def _no_longer(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _too_late(self) -> None:
        self._head = None
        if not self._is_working:
            self.transport.close()
