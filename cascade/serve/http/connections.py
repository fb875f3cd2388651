"""Who may connect. Connections are counted where they are accepted and where their descriptor is closed.

At a limit a newcomer gets the place of a connection that waits for a request: of the address of which most wait, the one that waits
longest. So idle ones hold no place against anybody, and who came just now keeps his. Where all are at work the newcomer is refused
before anything is read.
"""

import contextlib
import errno
import ipaddress
import json
import logging
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

from .addresses import client_of, plain
from .guard import error_body

log = logging.getLogger("cascade.serve")
BACKLOG = 512
TURN = 8  # accepted before others have their turn: who was accepted just now cannot make way yet
NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
WORDS = json.dumps(error_body("too_many_connections", "too many connections; try again later", 503)).encode()
ANSWER = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 5\r\nconnection: close\r\n"
    b"content-length: %d\r\n\r\n%s" % (len(WORDS), WORDS)
)


class Waiting(Protocol):
    """A connection that waits for a request."""

    def drop(self) -> None: ...


class Places:
    """For `limit` connections, `of_address` of them of one client address. proxies: addresses and networks of which each may have
    all, for they stand for many clients. All of it in the event loop's thread."""

    def __init__(self, limit: int, of_address: int, proxies: Sequence[str] = ()):
        self.limit, self.of_address = limit, of_address
        self._proxies = [ipaddress.ip_network(each) for each in proxies]
        self.num = 0
        self._taken: Counter[str] = Counter()
        self._waiting: dict[Waiting, str] = {}  # and their addresses, from who waits longest

    def take(self, host: str) -> bool:
        """False where there is none."""
        address = client_of(host)
        is_full = self._taken[address] >= self.of_address and not self._is_proxy(host)
        if is_full and not self._drop_one(address):
            log.warning("a connection of %s is refused: %d of it are open", address, self._taken[address])
            return False
        if self.num >= self.limit and not self.drop_one():
            log.warning("a connection of %s is refused: %d are open", address, self.num)
            return False
        self.num += 1
        self._taken[address] += 1
        return True

    def leave(self, host: str) -> None:
        address = client_of(host)
        self.num -= 1
        self._taken[address] -= 1
        if not self._taken[address]:
            del self._taken[address]

    def waits(self, connection: Waiting, address: str) -> None:
        """It may be dropped."""
        self._waiting.setdefault(connection, address)

    def works(self, connection: Waiting) -> None:
        """Or is gone."""
        self._waiting.pop(connection, None)

    def _is_proxy(self, host: str) -> bool:
        return bool(host and self._proxies) and any(
            ipaddress.ip_address(plain(host).partition("%")[0]) in each for each in self._proxies
        )

    def drop_one(self) -> bool:
        return self._drop_one("")

    def _drop_one(self, address: str) -> bool:
        """A proxy, which stands for many clients, is no address of which most wait."""
        waiting = [each for each, its in self._waiting.items() if not address or its == address]
        if not waiting:
            return False
        num = {its: 1 if self._is_proxy(its) else n for its, n in Counter(self._waiting.values()).items()}
        found = max(waiting, key=lambda each: num[self._waiting[each]])  # the first of several
        del self._waiting[found]
        found.drop()
        return True


class Accepted(socket.socket):
    """A connection's socket; `gone` is called once, when its descriptor is closed."""

    gone: Callable[[], None] | None = None

    def close(self) -> None:
        super().close()
        if self.gone:
            gone, self.gone = self.gone, None
            gone()


class Listener(socket.socket):
    """A listening socket that hands out who has a place."""

    places: Places | None = None

    def accept(self) -> tuple[socket.socket, Any]:
        """As asyncio calls it: until it raises BlockingIOError."""
        for _ in range(TURN):
            try:
                connection, peer = super().accept()
            except OSError as error:
                if error.errno in NO_ROOM and self.places and self.places.drop_one():
                    raise BlockingIOError from None  # in the next turn there is a descriptor
                raise
            if self.places is None:
                return connection, peer
            if self.places.take(peer[0]):
                accepted = Accepted(self.family, self.type, self.proto, fileno=connection.detach())
                accepted.gone = partial(self.places.leave, peer[0])
                return accepted, peer
            turn_away(connection)
        raise BlockingIOError


def turn_away(connection: socket.socket) -> None:
    """With an answer, where the client reads it before the end."""
    with connection, contextlib.suppress(OSError):
        connection.setblocking(False)
        connection.send(ANSWER)
        connection.shutdown(socket.SHUT_WR)
        connection.recv(1 << 16)  # what was not read would become a reset that overtakes the answer


def listen(host: str, port: int) -> Listener:
    """A bound socket. A client that acknowledges nothing for a minute is dropped by the system. Raises ValueError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # the protocol is named, else asyncio leaves Nagle's delay on and small answers wait 40 ms
    found = Listener(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
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
