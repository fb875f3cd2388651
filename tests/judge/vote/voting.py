"""`python -m cascade.judge vote` as a process of its own, and who speaks to it."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parents[3]
WAIT_S = 120.0


class Voting:
    """A vote under way. url: without the token; lines: what was printed before the address."""

    def __init__(self, *words: object, cwd: Path):
        command = [sys.executable, "-m", "cascade.judge", "vote", *map(str, words)]
        env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env, cwd=cwd
        )
        assert self.process.stdout is not None
        self.lines: list[str] = []
        for line in self.process.stdout:
            if line.startswith("vote at "):
                self.address = line.split()[2]
                break
            self.lines.append(line.rstrip())
        else:
            raise AssertionError("\n".join(self.lines))
        self.url, _, self.token = self.address.partition("/#")
        self.client = httpx.Client(base_url=self.url, timeout=WAIT_S)

    def post(self, path: str, headers: dict[str, str] | None = None, **body: Any) -> httpx.Response:
        """With the token, unless headers say otherwise."""
        return self.client.post(path, json=body, headers={"authorization": f"Bearer {self.token}"} | (headers or {}))

    def vote(self, voter: str, choice: str) -> dict[str, Any]:
        """On what the voter is shown; returns what comes next."""
        ballot = self.post("/next", voter=voter).json()["ballot"]
        return self.post("/vote", voter=voter, ballot=ballot, choice=choice).json()

    def end(self) -> list[str]:
        """Ctrl-C; returns the lines of the result."""
        self.client.close()
        self.process.send_signal(signal.SIGINT)
        out, _ = self.process.communicate(timeout=WAIT_S)
        assert self.process.returncode == 0, out
        return out.splitlines()

    def close(self) -> None:
        """kill -9, if it still runs."""
        self.client.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(WAIT_S)
        if self.process.stdout:
            self.process.stdout.close()
