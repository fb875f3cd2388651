"""What the source may not do, read from the source itself: directions between packages, who may know which library, no code
from data; and what importing everything does to a process, which is nothing but importing.
"""

import ast
import importlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("data", "stages", "cascade")
SCRIPTS = ("train", "sample")
SOURCES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (*ROOT.glob("*.py"), *(p for package in PACKAGES for p in (ROOT / package).rglob("*.py")))
)

ALLOWED = {  # a package: those it may import
    "data": {"data"},
    "stages": {"stages", "data"},
    "cascade": {"cascade", "stages", "data"},
    "train": {"cascade", "stages", "data"},
    "sample": {"cascade", "stages", "data"},
}
CONFINED = {  # a library: the only places that may import it
    "deepspeed": ("stages/training/deepspeed_engine.py",),
    "webdataset": ("data/",),
    "fastapi": ("cascade/serve/",),
    "starlette": ("cascade/serve/", "cascade/judge/vote/app.py"),
    "uvicorn": ("cascade/serve/", "cascade/judge/vote/server.py"),
    "prometheus_client": ("cascade/serve/",),
    "ray": ("cascade/serve/",),
    "resvg_py": ("data/styles/drawings.py",),
    "transformers": ("data/text.py", "cascade/judge/encoder.py"),
    "huggingface_hub": ("data/text.py",),
    "k_diffusion": (),  # an oracle of samplers in tests
    "diffusers": (),  # a peer in tests and benches
    "torch_fidelity": (),  # the oracle of cascade/judge in tests
    "pickle": (),
    "marshal": (),
    "shelve": (),
    "dill": (),
    "cloudpickle": (),
    "joblib": (),
}


@cache
def tree(source: str) -> ast.Module:
    return ast.parse((ROOT / source).read_text(encoding="utf-8"))


def imported(source: str) -> Iterator[tuple[int, str]]:
    """(line, absolute dotted name) of everything a file imports, at its top or inside functions."""
    package = Path(source).with_suffix("").parts[:-1]
    for node in ast.walk(tree(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *((node.module,) if node.module else ())))
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def dotted(node: ast.expr) -> str:
    """ "torch.load" of the expression torch.load; "" of what is no chain of names."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (base := dotted(node.value)):
        return f"{base}.{node.attr}"
    return ""


def keyword(call: ast.Call, name: str) -> object:
    """The constant given for a keyword; None where it is absent, a marker where it is no constant."""
    for given in call.keywords:
        if given.arg == name:
            return given.value.value if isinstance(given.value, ast.Constant) else "computed"
    return None


def fault(call: ast.Call) -> str | None:
    """What is wrong with a call that could execute data or reach a shell."""
    name = dotted(call.func)
    if name in ("eval", "exec", "compile", "__import__", "os.system", "os.popen", "yaml.load", "yaml.unsafe_load"):
        return f"{name}()"
    if name.endswith("torch.load") and keyword(call, "weights_only") is not True:
        return "torch.load without weights_only=True"
    if keyword(call, "shell") not in (None, False):
        return "shell=True"
    if keyword(call, "allow_pickle") not in (None, False):
        return "allow_pickle=True"
    if keyword(call, "trust_remote_code") not in (None, False):
        return "trust_remote_code=True"
    return None


def test_the_sources_are_found():
    assert {
        "train.py",
        "sample.py",
        "stages/diffusion/samplers.py",
        "data/pack/__main__.py",
        "cascade/pipeline.py",
    } <= set(SOURCES)


@pytest.mark.parametrize("source", SOURCES)
def test_packages_import_downwards_only(source):
    """cascade -> stages -> data."""
    package = Path(source).with_suffix("").parts[0]
    for line, name in imported(source):
        top = name.split(".")[0]
        assert top not in {*PACKAGES, *SCRIPTS, "tests"} or top in ALLOWED[package], f"{source}:{line} imports {name}"


ROOMS = {  # a room: the rooms that it may import; what lies at the top of a package is nobody's room
    "data.index": (),
    "data.pack": ("data.index",),
    "data.places": ("data.index",),
    "data.read": ("data.index", "data.places"),
    "data.styles": (),
    "data.world": (),
    "stages.diffusion": (),
    "stages.guiding": ("stages.diffusion",),
    "stages.conditions": (),
    "stages.nets": (),
    "stages.parametrisations": ("stages.diffusion",),
    "stages.spaces": (),
    "stages.kinds": (
        "stages.conditions",
        "stages.diffusion",
        "stages.nets",
        "stages.parametrisations",
        "stages.spaces",
    ),
    "stages.objectives": ("stages.diffusion",),
    "stages.tools": ("stages.conditions", "stages.diffusion"),
    "stages.training": (
        *("data.index", "data.read"),
        *(
            "stages.diffusion",
            "stages.nets",
            "stages.objectives",
            "stages.parametrisations",
            "stages.spaces",
            "stages.tools",
        ),
    ),
    "cascade.card": ("cascade.judge", "data.index", "data.pack", "data.read", "stages.training"),
    "cascade.engine": ("stages.conditions", "stages.diffusion", "stages.guiding"),
    "cascade.judge": (
        *("cascade.engine", "cascade.judge.vote", "cascade.output"),
        *("data.index", "data.pack", "data.read", "data.world"),
        *("stages.diffusion", "stages.training"),
    ),
    "cascade.judge.vote": (
        "cascade.engine",
        "cascade.output",
        "cascade.serve.http",
        "cascade.serve.jobs",
        "data.index",
    ),
    "cascade.output": ("cascade.engine", "data.pack"),
    "cascade.train": ("data.read", "stages.tools", "stages.training"),
    "cascade.folder": (
        *("cascade.card", "cascade.judge", "cascade.output", "cascade.train"),
        *("data.index", "data.pack", "data.read", "stages.training"),
    ),
    "cascade.serve.http": ("cascade.engine", "cascade.serve.page"),
    "cascade.serve.jobs": ("cascade.engine", "cascade.output", "cascade.serve.http"),
    "cascade.serve.api": (
        *("cascade.engine", "cascade.output", "cascade.serve.http", "cascade.serve.jobs", "cascade.serve.page"),
        "stages.diffusion",
    ),
    "cascade.serve.page": (),
    "cascade.serve.ray": (
        *("cascade.engine", "cascade.serve.api", "cascade.serve.http", "cascade.serve.jobs"),
        "stages.diffusion",
    ),
}


def room_of(module: str) -> str:
    """The innermost room in which a module lies; "" at the top of a package."""
    rooms = [room for room in ROOMS if module == room or module.startswith(f"{room}.")]
    return max(rooms, key=len, default="")


def test_every_folder_of_a_package_is_a_room():
    """`data.index` aside, a command, too, a room's own file is its docstring: its modules are imported by their names."""
    folders = {Path(source).parent.as_posix().replace("/", ".") for source in SOURCES} - {
        *PACKAGES,
        "",
        ".",
        "cascade.serve",
    }
    assert folders == {room for room in ROOMS if any((ROOT / room.replace(".", "/")).glob("*.py"))}


@pytest.mark.parametrize("source", [source for source in SOURCES if room_of(source[:-3].replace("/", "."))])
def test_rooms_import_downwards_only(source):
    own = room_of(source.removesuffix(".py").replace("/", "."))
    for line, name in imported(source):
        room = room_of(name)
        assert not room or room in (own, *ROOMS[own]), f"{source}:{line} imports {name}"


def test_the_directions_of_rooms_have_no_circle():
    TopologicalSorter(ROOMS).prepare()


OPTIONAL = ("wandb",)  # for who has it and asks for it; that it is missing is told


def test_what_is_imported_is_declared():
    """A library that only another one brings goes when that one changes its mind."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    declared = {re.match(r"[\w-]+", line)[0].lower().replace("_", "-") for line in lines}
    found = packages_distributions()
    for source in SOURCES:
        for line, name in imported(source):
            top = name.split(".")[0]
            if top in sys.stdlib_module_names or top in (*PACKAGES, *SCRIPTS):
                continue
            if top in OPTIONAL:
                continue
            top = "pydantic" if top == "pydantic_core" else top  # two wheels of one library
            brings = {each.lower().replace("_", "-") for each in found.get(top, [])}
            assert brings & declared, f"{source}:{line} imports {top}, which pyproject.toml does not name"


@pytest.mark.parametrize("source", [source for source in SOURCES if source.startswith("stages/diffusion/")])
def test_the_mathematics_imports_torch_alone(source):
    for line, name in imported(source):
        top = name.split(".")[0]
        pure = top == "torch" or top in sys.stdlib_module_names or name.startswith("stages.diffusion")
        assert pure, f"{source}:{line} imports {name}"


@pytest.mark.parametrize("library", CONFINED)
def test_a_library_is_known_in_one_place(library):
    for source in SOURCES:
        for line, name in imported(source):
            if name.split(".")[0] == library:
                assert source.startswith(CONFINED[library]), f"{source}:{line} imports {name}"


@pytest.mark.parametrize("source", SOURCES)
def test_nothing_executes_data(source):
    for node in ast.walk(tree(source)):
        if isinstance(node, ast.Call) and (found := fault(node)):
            pytest.fail(f"{source}:{node.lineno}: {found}")


@pytest.mark.parametrize(
    "line",
    [
        "eval(x)",
        "exec('')",
        "os.system(x)",
        "yaml.load(x)",
        "torch.load(x)",
        "torch.load(x, weights_only=False)",
        "torch.load(x, weights_only=flag)",
        "subprocess.run(x, shell=True)",
        "np.load(x, allow_pickle=True)",
    ],
)
def test_the_search_finds_what_it_looks_for(line):
    call = ast.parse(line).body[0]
    assert isinstance(call, ast.Expr)
    assert isinstance(call.value, ast.Call)
    assert fault(call.value)


@pytest.mark.parametrize(
    "line", ["net.eval()", "torch.load(x, weights_only=True)", "yaml.safe_load(x)", "re.compile(x)"]
)
def test_the_search_lets_others_be(line):
    call = ast.parse(line).body[0]
    assert isinstance(call, ast.Expr)
    assert isinstance(call.value, ast.Call)
    assert not fault(call.value)


def test_no_import_leads_back():
    """Modules that import each other, at the top or inside functions, are one thing in two files."""
    modules = {source.removesuffix(".py").removesuffix("/__init__").replace("/", "."): source for source in SOURCES}
    arrows = {
        module: {name for _, full in imported(source) for name in (full, full.rpartition(".")[0])}
        & modules.keys() - {module, *PACKAGES}
        for module, source in modules.items()
    }
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


PROBE = """
import importlib, json, sys, threading
events = []
def note(event, args):
    if event.split(".")[0] in ("socket", "subprocess", "urllib", "ftplib") and event != "socket.gethostname":
        if "ldconfig" not in str(args[0]):  # torch's own search for CUDA libraries
            events.append(f"{event} {args}")
sys.addaudithook(note)
for name in sys.argv[1:]:
    importlib.import_module(name)
heavy = {
    "deepspeed", "timm", "torchvision", "kornia", "transformers", "diffusers", "tensorboard",
    "fastapi", "starlette", "uvicorn", "ray",
}
print(json.dumps({
    "heavy": sorted(heavy & set(sys.modules)),
    "events": events,
    "threads": [thread.name for thread in threading.enumerate()],
}))
"""


def test_importing_everything_does_nothing_else(tmp_path):
    """No heavy library, no socket, no process, no thread, no file."""
    served = (
        "cascade/serve/",
        "cascade/judge/vote/app.py",
        "cascade/judge/vote/server.py",
    )  # an extra, whose library is fastapi
    sources = [source for source in SOURCES if not source.startswith(served)]
    names = [source.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for source in sources]
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *names],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == {"heavy": [], "events": [], "threads": ["MainThread"]}
    assert not list(tmp_path.iterdir())


LIGHT = """
import time, torch
began = time.process_time()
import cascade.pipeline
spent = time.process_time() - began
import sys
from cascade import Cascade, Request
from stages import load_bundle
assert Cascade.__module__ == "cascade.pipeline" and Request.__module__ == "cascade.request"
print(spent, sorted({"timm", "torchvision", "webdataset", "stages.training", "data.index", "data.tar"} & set(sys.modules)))
"""


def test_sampling_loads_no_trainer():
    done = subprocess.run([sys.executable, "-c", LIGHT], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split(maxsplit=1)[1].strip() == "[]"


@pytest.mark.parametrize("package", ["cascade", "stages"])
def test_public_names_are_there(package):
    module = importlib.import_module(package)
    assert {name for name in module.__all__ if getattr(module, name) is None} == set()
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        module.nothing  # noqa: B018


BENCHES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "tests/bench").rglob("*.py"))


@pytest.mark.parametrize("source", BENCHES)
def test_a_bench_imports_names_that_are_there(source):
    """No test runs most of these scripts, so a name that moves would only be missed by who measures next."""
    for node in ast.walk(ast.parse((ROOT / source).read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in (*PACKAGES, "tests"):
            module = importlib.import_module(str(node.module))
            for alias in node.names:
                assert hasattr(module, alias.name) or importlib.util.find_spec(f"{node.module}.{alias.name}"), (
                    f"{source}, line {node.lineno}: {node.module} has no {alias.name}"
                )
