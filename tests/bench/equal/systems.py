"""The systems that equal_budget.py compares, and the environment of those that are no part of this project."""

import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent
PEERS = ("diffusers==0.42.1", "imagen-pytorch==2.1.0", "accelerate>=1,<2")
READY = "ready.txt"  # what was installed


@dataclass(frozen=True, kw_only=True)
class System:
    """A library and how it is run: `worker` is a file beside this one; tuned: at its best, else as its README runs it; raw: the
    weights of another system's runs without their average."""

    name: str
    worker: str
    tuned: bool = False
    raw_of: str = ""

    @property
    def is_ours(self) -> bool:
        return self.worker == "ours.py"

    @property
    def runs(self) -> str:
        """Folder of the runs, which a system and its raw weights share."""
        return self.raw_of or self.name


SYSTEMS = {
    each.name: each
    for each in (
        System(name="ours", worker="ours.py"),
        System(name="diffusers", worker="diffusers_peer.py"),
        System(name="diffusers-raw", worker="diffusers_peer.py", raw_of="diffusers"),
        System(name="diffusers-tuned", worker="diffusers_peer.py", tuned=True),
        System(name="imagen", worker="imagen_peer.py"),
        System(name="imagen-raw", worker="imagen_peer.py", raw_of="imagen"),
        System(name="imagen-tuned", worker="imagen_peer.py", tuned=True),
    )
}


def chosen(names: str) -> tuple[System, ...]:
    """The systems of a list with commas. Raises ValueError."""
    wanted = [name.strip() for name in names.split(",")]
    for name in wanted:
        if name not in SYSTEMS:
            raise ValueError(f"--systems {name}: allowed are {', '.join(SYSTEMS)}")
    if len(set(wanted)) != len(wanted):
        raise ValueError(f"--systems {names}: a system is named twice")
    return tuple(SYSTEMS[name] for name in wanted)


def python_of_peers(folder: Path) -> Path:
    """The Python of an environment with the peers and the torch that runs here, made in `folder` where it is not there yet."""
    python = folder / "bin" / "python"
    wanted = (f"torch=={plain('torch')}", f"torchvision=={plain('torchvision')}", *PEERS)
    if (folder / READY).exists() and (folder / READY).read_text().split("\n") == [*wanted]:
        return python
    print(f"installing {', '.join(wanted)} into {folder}", flush=True)
    for command in (
        ("uv", "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)),
        ("uv", "pip", "install", "--quiet", "--python", str(python), *wanted),
    ):
        try:
            subprocess.run(command, check=True)
        except FileNotFoundError:
            raise ValueError("uv is not there; it makes the peers' environment: pip install uv") from None
        except subprocess.CalledProcessError as error:
            raise ValueError(
                f"the peers cannot be installed: {' '.join(command[:3])} ended with {error.returncode}"
            ) from None
    (folder / READY).write_text("\n".join(wanted))
    return python


def plain(package: str) -> str:
    """A version without its local part, as an index knows it."""
    return version(package).partition("+")[0]
