"""Limits connections, counted from their acceptance until their descriptor is closed.

At a limit, a new connection replaces one that waits for a request: of the address with most waiting connections, the one
that has waited longest. So idle connections keep nobody out, and a recent one keeps its slot. If all are at work, the new
connection is refused before anything is read.
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
TURN = 8  # accepted per turn of the event loop: those just accepted cannot make room yet
NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
TOO_MANY = json.dumps(error_body("too_many_connections", "too many connections; try again later", 503)).encode()
ANSWER = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 5\r\nconnection: close\r\n"
    b"content-length: %d\r\n\r\n%s" % (len(TOO_MANY), TOO_MANY)
)


class Waiting(Protocol):
    """A connection that waits for a request."""

    def drop(self) -> None:
        """Close it at once."""
        ...


class Places:
    """Slots for `limit` connections, `of_address` of them per client address. proxies: addresses and networks without the
    limit per address, since they stand for many clients. For the event loop's thread only."""

    def __init__(self, limit: int, of_address: int, proxies: Sequence[str] = ()):
        self.limit, self.of_address = limit, of_address
        self._proxies = [ipaddress.ip_network(network) for network in proxies]
        self.num = 0
        self._taken: Counter[str] = Counter()
        self._waiting: dict[Waiting, str] = {}  # with their addresses, longest-waiting first

    def take(self, host: str) -> bool:
        """Take a slot for a client's connection; False if there is none."""
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
        """Free the slot of a client's connection."""
        address = client_of(host)
        self.num -= 1
        self._taken[address] -= 1
        if not self._taken[address]:
            del self._taken[address]

    def waits(self, connection: Waiting, address: str) -> None:
        """A connection waits for a request, so that it may be dropped."""
        self._waiting.setdefault(connection, address)

    def works(self, connection: Waiting) -> None:
        """A connection is at work, or gone."""
        self._waiting.pop(connection, None)

    def _is_proxy(self, host: str) -> bool:
        return bool(host and self._proxies) and any(
            ipaddress.ip_address(plain(host).partition("%")[0]) in network for network in self._proxies
        )

    def drop_one(self) -> bool:
        """Drop a waiting connection; False if none waits."""
        return self._drop_one("")

    def _drop_one(self, address: str) -> bool:
        """Drop the longest-waiting connection of `address`, or ("") of the address with most of them; a proxy, which stands
        for many clients, counts as having one."""
        waiting = [connection for connection, client in self._waiting.items() if not address or client == address]
        if not waiting:
            return False
        num = {client: 1 if self._is_proxy(client) else n for client, n in Counter(self._waiting.values()).items()}
        victim = max(
            waiting, key=lambda each: num[self._waiting[each]]
        )  # of equals the first, which has waited longest
        del self._waiting[victim]
        victim.drop()
        return True


class Accepted(socket.socket):
    """A connection's socket; `gone` is called once, when its descriptor is closed."""

    gone: Callable[[], None] | None = None

    def close(self) -> None:
        """Close the descriptor and call `gone`."""
        super().close()
        if self.gone:
            callback, self.gone = self.gone, None
            callback()


class Listener(socket.socket):
    """A listening socket that hands out only connections with a slot."""

    places: Places | None = None

    def accept(self) -> tuple[socket.socket, Any]:
        """Accept a connection, refusing those without a slot. Raises BlockingIOError if there is none, as asyncio expects."""
        for _ in range(TURN):
            try:
                connection, peer = super().accept()
            except OSError as error:
                if error.errno in NO_ROOM and self.places and self.places.drop_one():
                    raise BlockingIOError from None  # a descriptor is free in the next turn
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
    """Refuse a connection with a response, closing it so that the client can read that."""
    with connection, contextlib.suppress(OSError):
        connection.setblocking(False)
        connection.send(ANSWER)
        connection.shutdown(socket.SHUT_WR)
        connection.recv(1 << 16)  # unread data would become a reset that overtakes the response


def listen(host: str, port: int) -> Listener:
    """A bound, listening socket. The system drops a client that acknowledges nothing for a minute. Raises ValueError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # without the protocol's name asyncio leaves Nagle's algorithm on, and small responses wait 40 ms
    listener = Listener(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            with contextlib.suppress(OSError):
                listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 60_000)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except (OSError, TypeError, ValueError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or "no address"
        raise ValueError(f"--host {ascii(host)[1:-1]} --port {port}: {reason}; choose another") from None
    return listener
