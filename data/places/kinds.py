"""Kinds of remote places, each a way to read a file of a folder: HTTP, fsspec, the output of a command.

A missing file is a FileNotFoundError, a refusal a PermissionError, any other fault (worth a retry) another OSError.
"""

import http.client
import os
import re
import select
import shlex
import signal
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO
from urllib.parse import quote

CHUNK_BYTES = 1 << 20
GONE_STATUSES = (404, 410)
REFUSED_STATUSES = (400, 401, 403)
NO_HEAD = (405, 501)


@dataclass(frozen=True)
class Http:
    """A folder of a web server; `query` (a token, say) is added to each request and never shown."""

    name: str
    query: str
    timeout_s: float

    def chunks(self, file: str) -> Iterator[bytes]:
        """Yield the bytes of a file; ConnectionError if the connection ends early."""
        with self._faults(), self._ask("GET", file) as answer:
            while chunk := answer.read1(CHUNK_BYTES):
                yield chunk
            if answer.length:  # bytes that the header announced and that did not arrive
                raise ConnectionError(f"the connection ended {answer.length:,} bytes too early")

    def size(self, file: str) -> int | None:
        """Bytes of a file by a HEAD request; None if the server does not tell."""
        try:
            with self._faults(), self._ask("HEAD", file) as answer:
                length = answer.headers.get("Content-Length", "")
        except _NoHeadError:
            return None
        return int(length) if length.isdecimal() else None

    def _ask(self, method: str, file: str) -> http.client.HTTPResponse:
        query = f"?{self.query}" if self.query else ""
        request = urllib.request.Request(f"{self.name}/{quote(file)}{query}", method=method)
        return urllib.request.urlopen(request, timeout=self.timeout_s)  # follows redirects to http, https, ftp only

    @contextmanager
    def _faults(self) -> Iterator[None]:
        """Turn HTTP's errors into OSErrors that state the fault without the address."""
        try:
            yield
        except urllib.error.HTTPError as error:
            error.close()
            raise _of_status(error.code, f"HTTP {error.code} {error.reason}") from None
        except TimeoutError:
            raise self._no_answer() from None
        except urllib.error.URLError as error:
            is_timeout = isinstance(error.reason, TimeoutError)
            raise (self._no_answer() if is_timeout else ConnectionError(str(error.reason))) from None
        except (http.client.HTTPException, ValueError) as error:
            raise ConnectionError(f"no good HTTP answer ({type(error).__name__})") from error

    def _no_answer(self) -> OSError:
        return ConnectionError(f"no answer within {self.timeout_s:g} s")


class _NoHeadError(OSError):
    """The server does not answer HEAD requests, so sizes are unknown."""


def _of_status(code: int, told: str) -> OSError:
    if code in GONE_STATUSES:
        return FileNotFoundError(told)
    if code in NO_HEAD:
        return _NoHeadError(told)
    return (PermissionError if code in REFUSED_STATUSES else ConnectionError)(told)


@dataclass(frozen=True)
class FsSpec:
    """A folder that fsspec can reach; its packages have their own time limits."""

    name: str

    def chunks(self, file: str) -> Iterator[bytes]:
        """Yield the bytes of a file."""
        with self._faults():
            system, path = self._at(file)
            with system.open(path, "rb") as stream:
                while chunk := stream.read(CHUNK_BYTES):
                    yield chunk

    def size(self, file: str) -> int | None:
        """Bytes of a file; None if the file system does not tell."""
        with self._faults():
            system, path = self._at(file)
            return system.size(path)

    def _at(self, file: str):
        """(file system, path); fsspec caches one file system per process, so a forked process gets its own."""
        import fsspec

        return fsspec.url_to_fs(f"{self.name}/{file}")

    def check(self) -> None:
        """Raise ValueError if no installed package can open this address."""
        try:
            self._at("")
        except ImportError as error:
            raise ValueError(
                f"data {self.name}: its package is not installed ({' '.join(str(error).split())}); install it with pip"
            ) from error
        except ValueError as error:
            raise ValueError(
                f"data {self.name}: {error}; give a folder, or an address like https://, s3://, gs://"
            ) from error
        except Exception as error:  # about credentials or options: each package raises its own errors
            raise ValueError(f"data {self.name} cannot be opened ({type(error).__name__}: {_short(error)})") from error

    @contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, PermissionError, GeneratorExit):
            raise
        except Exception as error:  # each package raises its own errors
            raise ConnectionError(f"{type(error).__name__}: {_short(error)}") from error


@dataclass(frozen=True)
class Pipe:
    """The output of a shell command, with {} for the name of the file; only made with the user's permission."""

    command: str
    timeout_s: float

    @property
    def name(self) -> str:
        """The place as the user writes it."""
        return f"pipe:{self.command}"

    def chunks(self, file: str) -> Iterator[bytes]:
        """Yield what the command writes; the command and its children are killed at the end."""
        if not re.match(r"[\w.]", file):
            raise PermissionError(f"a command might take {file!r} for an option")
        line = self.command.replace("{}", shlex.quote(file))
        with tempfile.TemporaryFile() as errors:
            job = subprocess.Popen(
                ["/bin/sh", "-c", line],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, start_new_session=True,
            )  # fmt: skip
            assert job.stdout is not None
            try:
                while chunk := self._next(job.stdout):
                    yield chunk
                if job.wait(self.timeout_s):
                    raise ConnectionError(f"the command ended with {job.returncode}{_last_line(errors)}")
            except subprocess.TimeoutExpired:
                raise ConnectionError(f"the command did not end within {self.timeout_s:g} s") from None
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(job.pid, signal.SIGKILL)
                job.stdout.close()
                job.wait()

    def _next(self, output: IO[bytes]) -> bytes:
        if not select.select([output], [], [], self.timeout_s)[0]:
            raise ConnectionError(f"the command wrote nothing for {self.timeout_s:g} s")
        return os.read(output.fileno(), CHUNK_BYTES)

    def size(self, file: str) -> int | None:
        """None: a command does not tell sizes."""
        return None


def _last_line(errors: IO[bytes]) -> str:
    errors.seek(max(0, errors.seek(0, os.SEEK_END) - 1000))
    lines = errors.read().decode(errors="replace").strip().splitlines()
    return f" ({lines[-1][:200]})" if lines else ""


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
