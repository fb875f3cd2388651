"""Programs that tests start besides Python's own, each with its names and the Debian package that brings it: written once.

    python tests/programs.py        the packages of those that are not here, for .ci/run

A test that cannot do without one is skipped as "missing: ...", which --no-missing (tests/conftest.py) makes a failure. Only the
standard library is used, for nothing is installed yet when .ci/run asks.
"""

import shutil
from dataclasses import dataclass


@dataclass(frozen=True)
class Program:
    """The first of `names` that is on the path is used."""

    names: tuple[str, ...]
    debian: str

    @property
    def path(self) -> str | None:
        return next((found for name in self.names if (found := shutil.which(name))), None)

    @property
    def missing(self) -> str:
        return f"missing: {self.names[0]}; apt-get install {self.debian}"


BROWSER = Program(("chromium", "chromium-browser", "google-chrome"), "chromium")
COMPILER = Program(("g++",), "g++")
NGINX = Program(("nginx", "/usr/sbin/nginx"), "nginx")  # which is not on every user's path
PROGRAMS = (BROWSER, COMPILER, NGINX, Program(("git",), "git"), Program(("unshare",), "util-linux"))

if __name__ == "__main__":
    print(*(program.debian for program in PROGRAMS if program.path is None))
