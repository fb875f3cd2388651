"""A real web server on loopback, with faults that tests switch on."""

import threading
import time
from collections import Counter
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Handler(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.gets[self.path.rpartition("/")[2]] += 1
        fault = self.server.faults.get(self.path.rpartition("/")[2])
        if fault is None or not fault(self):
            super().do_GET()

    def do_HEAD(self):
        if self.server.head:
            super().do_HEAD()
        else:
            self.send_error(501)

    def log_message(self, *_):
        """Quiet."""


class Server(ThreadingHTTPServer):
    """gets: how often each file was asked for; faults: file to what answers instead (True: it did)."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, folder: Path):
        self.gets, self.faults, self.head = Counter(), {}, True
        super().__init__(("127.0.0.1", 0), partial(Handler, directory=str(folder)))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_):
        """A client that left is what some tests are about."""


@contextmanager
def serving(folder: Path):
    with Server(folder) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def silent(handler) -> bool:
    """Takes the request and never answers."""
    time.sleep(30)
    return True


def trickle(handler) -> bool:
    """Promises a shard and sends a byte now and then."""
    handler.send_response(200)
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    for _ in range(200):
        handler.wfile.write(b"x")
        time.sleep(0.05)
    return True


class Times:
    """A fault for the first `num` requests, then none."""

    def __init__(self, num: int, fault):
        self.left, self.fault = num, fault

    def __call__(self, handler) -> bool:
        self.left -= 1
        return self.left >= 0 and self.fault(handler)


def status(code: int):
    def fault(handler) -> bool:
        handler.send_error(code)
        return True

    return fault


def hang_up(handler) -> bool:
    """Half of a body, then the connection is closed."""
    handler.send_response(200)
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    handler.wfile.write(bytes(5000))
    handler.close_connection = True
    return True


def other_bytes(handler) -> bool:
    content = bytes(20_480)
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)
    return True
