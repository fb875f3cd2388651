"""data/ is a leaf, quick to import and safe to import."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "data").rglob("*.py"))


def imported(path: Path) -> set[str]:
    """The first part of everything that a module imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").partition(".")[0])
    return names


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_upward_and_no_unsafe_imports(path):
    assert not imported(path) & {"stages", "cascade", "train", "sample", "pickle", "marshal", "shelve", "dill", "yaml"}
    assert not {"eval", "exec"} & {
        node.id for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Name)
    }


def test_importing_everything_loads_no_heavy_optional_library_and_help_needs_no_torch():
    modules = (path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".") for path in SOURCES)
    names = ", ".join(module for module in modules if not module.endswith("__"))
    code = f"""
import sys
import data.pack.__main__, data.pack.packer, data.index, data.index.tally
print([name for name in ("torch", "webdataset", "transformers", "kornia") if name in sys.modules])
import {names}
print([name for name in ("webdataset", "transformers", "kornia", "deepspeed") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "[]"]
