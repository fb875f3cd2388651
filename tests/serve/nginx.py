"""A real nginx in front of a server under test: on a loopback port, all its files in a folder of the test."""

import socket
import subprocess
from pathlib import Path

from tests.programs import NGINX
from tests.serve.serving import WAIT_S, until

CONF = """daemon off;
master_process off;
pid nginx.pid;
error_log stderr warn;
events {{ worker_connections 256; }}
http {{
    access_log access.log;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    server {{
        listen 127.0.0.1:{port};
        {blocks}
    }}
}}
"""
TRIES = 5  # another process may take the port that was free


class Nginx:
    """blocks: of its one server."""

    def __init__(self, folder: Path, *blocks: str):
        folder.mkdir()
        self.log = folder / "nginx.log"
        for _ in range(TRIES):
            self.port = free_port()
            (folder / "nginx.conf").write_text(CONF.format(port=self.port, blocks="\n".join(blocks)))
            command = [str(NGINX.path), "-p", str(folder), "-c", "nginx.conf", "-e", "stderr"]
            with self.log.open("a") as log:
                self.process = subprocess.Popen(command, stdout=log, stderr=log)
            until(lambda: self.process.poll() is not None or (folder / "nginx.pid").exists(), WAIT_S)  # it listens then
            if self.process.poll() is None:
                break
        else:
            raise AssertionError(self.log.read_text())
        self.url = f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(WAIT_S)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]
