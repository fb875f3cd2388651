"""What `uv run` installs, without what the tests' own group brings: a folder of links to the packages that `dependencies` of
pyproject.toml name, and to those that they need."""

import tomllib
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]


def bare_site(folder: Path) -> Path:
    """Fills the folder; a `python -S` with it in PYTHONPATH can import those packages only."""
    for found in needed().values():
        for top in {path.parts[0] for path in found.files or ()} - {"..", "__pycache__"}:
            link = folder / top
            if not link.exists():
                link.symlink_to(Path(str(found.locate_file(top))).resolve())
    return folder


def needed() -> dict[str, Distribution]:
    """Distributions by name, as far as requirements lead on this machine."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found: dict[str, Distribution] = {}
    asked: set[tuple[str, str]] = set()
    left = [(Requirement(text), "") for text in project["dependencies"]]
    while left:
        wanted, extra = left.pop()
        if wanted.marker and not wanted.marker.evaluate({"extra": extra}):
            continue
        found[wanted.name] = distribution(wanted.name)
        for each in {"", *wanted.extras}:
            if (wanted.name, each) not in asked:
                asked.add((wanted.name, each))
                left += [(Requirement(text), each) for text in found[wanted.name].requires or ()]
    return found
