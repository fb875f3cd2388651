"""uvicorn around the page: on loopback, until Ctrl-C, which ends a vote as it should."""

import secrets
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn

from cascade.judge.vote.app import make_app
from cascade.judge.vote.poll import Poll

HOST = "127.0.0.1"


class Server(uvicorn.Server):
    """uvicorn's server, which returns after a signal instead of raising it again. ready: called when requests are accepted."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]):
        super().__init__(config)
        self.ready = ready

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Ctrl-C, SIGTERM: end; a second one at once."""
        self.force_exit = self.should_exit
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then say so."""
        await super().startup(sockets)
        self.ready()


def listen(port: int) -> socket.socket:
    """A listening socket on loopback. port: 0 is any free one. Raises ValueError for one that is taken."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
        listener.listen()
    except (OSError, OverflowError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or "0 to 65535 are allowed"
        raise ValueError(f"--port {port}: {reason}; choose another, or leave it out for a free one") from None
    return listener


def serve(poll: Poll, *, port: int, voter: str, say: Callable[[str], None]) -> None:
    """Serve the page until a signal. say: is told the address, with its token, when it can be opened."""
    listener = listen(port)
    token = secrets.token_urlsafe(16)
    address = f"http://{HOST}:{listener.getsockname()[1]}/#{token}"
    config = uvicorn.Config(
        make_app(poll, token=token, voter=voter), loop="asyncio", ws="none", lifespan="off", access_log=False,
        server_header=False, proxy_headers=False, log_config=None, timeout_graceful_shutdown=2,
    )  # fmt: skip
    with listener:
        Server(config, lambda: say(address)).run(sockets=[listener])
