"""uvicorn's h11 protocol, hardened so that one client cannot hold up the others.

A request's head must arrive in time and be small; after a bounded number of events other connections have their turn; a
body in tiny chunks is cut off; any protocol error gets one response and no traceback.
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

HEAD_S = 15.0  # deadline for a request's head
CLOSING_S = 2.0  # between an error response and closing
READ_BYTES = 16 << 10  # per read; bounds heads and trailers too, since h11 bounds only incomplete ones
HEADERS = 100
EVENTS_A_TURN = 64  # of one connection in a turn of the event loop; each takes about 40 us
CHUNKS = 1000  # of a body, and one more for each CHUNK_BYTES
CHUNK_BYTES = 1024


class Connection(h11.Connection):
    """h11's connection, limited to EVENTS events a turn. Raises RemoteProtocolError for floods too."""

    def __init__(self) -> None:
        super().__init__(h11.SERVER)
        self.turn = 0  # events in this turn
        self.complaint = (400, "")  # (status, message) of the last error
        self._chunks = self._bytes = 0

    def next_event(self) -> Any:
        """The next event, or NEED_DATA if the turn is used up."""
        if self.turn >= EVENTS_A_TURN:
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
            names = {name for name, _ in event.headers}
            if b"transfer-encoding" in names and (b"content-length" in names or event.http_version < b"1.1"):
                # request smuggling: a proxy that goes by the other header takes this body for a request
                raise h11.RemoteProtocolError("Transfer-Encoding with Content-Length, or of HTTP/1.0")
        elif isinstance(event, h11.Data):
            self._chunks += 1
            self._bytes += len(event.data)
            if self._chunks > CHUNKS + self._bytes // CHUNK_BYTES:
                raise h11.RemoteProtocolError("a body in too many tiny chunks", error_status_hint=413)


class Protocol(H11Protocol):
    """A client's connection. places: is notified whether the connection waits for a request."""

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
        """Bound the size of reads and wait for a head."""
        transport.max_size = READ_BYTES  # type: ignore[attr-defined]  # asyncio's, by default 256 KiB
        super().connection_made(transport)
        if self.client:
            self.client = (plain(self.client[0]), self.client[1])  # as in the log and --trust-proxy
            self.address = client_of(self.client[0])
        self._settle()

    def data_received(self, data: bytes) -> None:
        """Handle data, unless the connection is ending."""
        if not self._is_ending:
            super().data_received(data)
            self._settle()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the head's deadline; the connection no longer waits."""
        super().connection_lost(exc)
        self._no_longer()
        self.places.works(self)

    def on_response_complete(self) -> None:
        """Let the connection wait for its next request."""
        super().on_response_complete()
        if not self._is_working and not self.transport.is_closing():
            self.places.waits(self, self.address)

    def handle_events(self) -> None:
        """Handle at most EVENTS events; if there are more, continue in a later turn of the event loop."""
        self.conn.turn = 0
        super().handle_events()
        if self.conn.turn >= EVENTS_A_TURN and not (self._is_due or self._is_ending or self.transport.is_closing()):
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
        """Send one error response and close; nothing is sent after a response that has begun."""
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True  # anything more from it would be a second response
            cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            status, reason = self.conn.complaint
            body = json.dumps(error_body("bad_request", reason or msg, status)).encode()
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
        """Discard input for ENDING_S, then close: closing at once could send a reset that overtakes the response."""
        if self._is_ending or self.transport.is_closing():
            return
        self._is_ending = True
        self._no_longer()
        self.transport.write_eof()
        self.transport.resume_reading()
        self.loop.call_later(CLOSING_S, self.transport.close)
        self.places.waits(self, self.address)

    def drop(self) -> None:
        """Close at once, to make room for a new connection."""
        self.transport.abort()

    @property
    def _is_working(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _settle(self) -> None:
        """Start the deadline for a head, or cancel it while a request is being answered; notify `places` of either."""
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
        """Close a connection whose head did not arrive in time."""
        self._head = None
        if not self._is_working:
            self.transport.close()
