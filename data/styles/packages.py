"""The packages that the pictures and their names come from: pinned, downloaded by npm, and read from their tarballs.

A package is untrusted: of its tarball only plain files of a bounded size are read, nothing is unpacked, and npm runs none of
its scripts.
"""

import shutil
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from data.disk import room_told
from data.errors import one_line
from data.files import make_folder

MOST_BYTES = 64 << 20  # of one file in a package; the largest is 25 MB
MOST_FILES = 20_000  # in a package; the most are 3,723
TOP = "package/"  # what npm puts before each name


@dataclass(frozen=True, kw_only=True)
class Package:
    """One version of a package of the npm registry."""

    name: str
    version: str

    @property
    def spec(self) -> str:
        """As npm is asked for it."""
        return f"{self.name}@{self.version}"

    @property
    def tarball(self) -> str:
        """The file name that npm gives it."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"


PICTURES = {  # by style
    "fluent 3d": Package(name="@lobehub/fluent-emoji-3d", version="1.1.0"),
    "fluent flat": Package(name="@iconify-json/fluent-emoji-flat", version="1.2.6"),
    "noto": Package(name="@iconify-json/noto", version="1.2.9"),
    "noto v1": Package(name="@iconify-json/noto-v1", version="1.2.5"),
    "twemoji": Package(name="@twemoji/svg", version="15.0.0"),
}
KEYWORDS = Package(name="cldr-annotations-full", version="42.0.0")
DERIVED = Package(name="cldr-annotations-derived-full", version="42.0.0")  # of flags and of sequences
GROUPS = Package(name="emoji.json", version="15.1.0")
PACKAGES = (*PICTURES.values(), KEYWORDS, DERIVED, GROUPS)
NOTICE = """\
Pictures (rendered at one size, skin tones left out, otherwise as they were drawn):

fluent 3d, fluent flat   Fluent Emoji, Copyright (c) Microsoft Corporation, MIT License
noto, noto v1            Noto Emoji, Copyright Google LLC, Apache License 2.0
twemoji                  Twemoji, Copyright Twitter, Inc and other contributors, CC BY 4.0
                         (https://creativecommons.org/licenses/by/4.0/): whoever passes these on names them

Names, groups and keywords: Unicode CLDR and Unicode emoji data, Unicode License
(https://www.unicode.org/license.txt); groups as listed by emoji.json, MIT License

Packages of the npm registry:

""" + "".join(f"{package.spec}\n" for package in PACKAGES)


def fetch(folder: Path, packages: Iterable[Package] = PACKAGES) -> None:
    """Download those packages whose tarballs are not in `folder` yet. ValueError with a fix if npm is missing or fails."""
    missing = [package for package in packages if not (folder / package.tarball).is_file()]
    if not missing:
        return
    if not (npm := shutil.which("npm")):
        raise ValueError(
            "npm is not on the path, and it downloads the pictures; install Node.js (apt-get install npm, brew install node, ...), "
            f"or give --packages FOLDER that holds {', '.join(package.tarball for package in missing)}"
        )
    make_folder(folder)
    for package in missing:
        with room_told(folder), tempfile.TemporaryDirectory(dir=folder, suffix=".part") as part:
            command = [npm, "pack", "--loglevel", "error", "--ignore-scripts", package.spec]
            done = subprocess.run(command, cwd=part, capture_output=True, text=True, stdin=subprocess.DEVNULL)
            made = Path(part) / package.tarball
            if done.returncode or not made.is_file():
                raise ValueError(
                    f"npm pack {package.spec} failed: {_reason(done.stderr)}; mend the network or npm's settings and run the same "
                    f"command again, or put {package.tarball} into a folder and name it with --packages"
                )
            made.replace(folder / package.tarball)


def _reason(told: str) -> str:
    """What npm says in its lines of errors, without its logs and the places in its code."""
    lines = [line.split(maxsplit=2)[-1] for line in told.splitlines() if line.strip()]
    left_out = ("at ", "syscall ", "errno ", "A complete log")
    kept = [line for line in lines if not line.startswith(left_out) and not line.endswith(".log")]
    return " ".join(kept)[:300] or "no word"


def read(folder: Path, package: Package, *needed: str) -> dict[str, bytes]:
    """The package's files by name. ValueError if the tarball is damaged, holds what no package does, or lacks what is `needed`."""
    path = folder / package.tarball
    files: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r:gz") as tar:
            for member in tar:
                if not member.isfile():
                    continue
                if member.size > MOST_BYTES or len(files) >= MOST_FILES:
                    raise ValueError(
                        f"{path} is no package of pictures: {member.name[:80]!r} is too large, or one too many"
                    )
                if content := tar.extractfile(member):
                    files[member.name.removeprefix(TOP)] = content.read()
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(
            f"{path} is damaged ({one_line(error)}); remove it, and the same command downloads it again"
        ) from None
    if lacking := [name for name in needed if name not in files]:
        raise ValueError(f"{path} has no {', '.join(lacking)}; remove it, and the same command downloads it again")
    return files
