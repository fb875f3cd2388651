"""Every bash block of the documents works as it is written: executed in order, in a fresh copy of the tracked files.

A block is left out where the line above it says why: `<!-- not run: needs GPUs -->`. Paths and options that the documents
name must exist. (The blocks of data/README.md are executed by tests/data/test_readme.py, which also looks at what they give.)
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import pytest
import typer
from pydantic import BaseModel

import stages.config
from stages.nets.registry import NETWORKS
from stages.objectives.registry import OBJECTIVES
from stages.parametrisations.registry import PARAMETRISATIONS
from stages.sample_config import OPTIONS
from stages.spaces.registry import SPACES
from tests.surface import COMMANDS

ROOT = Path(__file__).parents[1]
OURS = ("README.md", "data", "stages", "cascade")
DOCS = tuple(
    sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("**/README.md") if path.parts[len(ROOT.parts)] in OURS)
)
EXECUTED = tuple(doc for doc in DOCS if doc != "data/README.md")
BLOCK_S = 600  # a block takes seconds; a machine that is busy with other things takes longer

OF_LAUNCHERS = {
    "--num_gpus",
    "--nproc-per-node",
    "--nproc_per_node",
    "--nnodes",
    "--hostfile",
    "--node-rank",
    "--all",
    "--group",
    "--inexact",
    "--extra",
    "--dist",
    "--node_rank",
    "--master_addr",
    "--no_ssh",
    "--master-addr",
}
OF_RUNS = re.compile(
    r"^(runs|shards|out|checkpoints|snapshots|samples|tensorboard|bundles?|FOLDER|OUT|STAGE)\b"
)  # made by commands


@dataclass(frozen=True)
class Block:
    """A bash block; `why_not` is the reason for which it is not executed, or empty."""

    doc: str
    number: int
    text: str
    why_not: str

    def __str__(self) -> str:
        return f"{self.doc}-{self.number}"


def read(doc: str) -> str:
    return (ROOT / doc).read_text(encoding="utf-8")


def blocks(doc: str) -> list[Block]:
    """The bash blocks of a document, in order."""
    pattern = r"^(?:<!-- (?:not run: *)?(?P<why>[^\n]*?) *-->\n)?```bash\n(?P<text>.*?)^```"
    found = re.finditer(pattern, read(doc), re.DOTALL | re.MULTILINE)
    return [Block(doc, number, match["text"], match["why"] or "") for number, match in enumerate(found, 1)]


@cache
def tracked() -> tuple[str, ...]:
    """Paths of all files that git knows and that are there."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return tuple(name for name in listed.split("\0") if name and (ROOT / name).is_file())


@pytest.fixture(scope="session")
def copies(tmp_path_factory):
    """A document to its own copy of the tree, with a `python` that is this one and imports the copy."""
    made: dict[str, Path] = {}

    def copy_for(doc: str) -> Path:
        if doc not in made:
            made[doc] = tmp_path_factory.mktemp("copy")
            for name in tracked():
                (made[doc] / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / name, made[doc] / name)
            python = made[doc] / ".bin" / "python"
            python.parent.mkdir()
            python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
            python.chmod(0o755)
        return made[doc]

    return copy_for


def bash(text: str, place: Path) -> subprocess.CompletedProcess[str]:
    """Runs a script in a copy, stopping at the first command that fails; the hub is out of reach."""
    path = os.pathsep.join([str(place / ".bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
    changes = {"PATH": path, "PYTHONPATH": str(place), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text],
        cwd=place,
        env={k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"} | changes,  # compile torch once
        capture_output=True,
        text=True,
        timeout=BLOCK_S,
    )


def test_a_copy_imports_itself(copies):
    place = copies(DOCS[0])
    done = bash("python -c 'import data; print(data.__file__)'", place)
    assert done.stdout.strip() == str(place / "data" / "__init__.py")


@pytest.mark.slow
@pytest.mark.matrix
@pytest.mark.timeout(BLOCK_S + 60)
@pytest.mark.parametrize("block", [block for doc in EXECUTED for block in blocks(doc) if not block.why_not], ids=str)
def test_a_block_works_as_written(block, copies):
    assert not re.search(r"pip install|pytest", block.text), "an install or a test run: say why it is not run"
    done = bash(block.text, copies(block.doc))
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("doc", EXECUTED)
def test_some_block_of_each_document_is_executed(doc):
    assert any(not block.why_not for block in blocks(doc))


# options


def flags_of(command) -> set[str]:
    app = typer.Typer(add_completion=False)
    app.command()(command)
    given = typer.main.get_command(app).params
    return {flag for parameter in given for flag in (*parameter.opts, *parameter.secondary_opts)} | {"--help"}


def command_lines(doc: str) -> Iterator[tuple[str, str]]:
    """(command, its whole line) of each call of one of ours in the document, in blocks and in running text."""
    text = re.sub(r"\\\n\s*", " ", read(doc))
    for line in re.findall(r"^[^\n]*$", text, re.MULTILINE):
        for span in re.findall(r"`([^`]+)`", line) or [line]:
            called = [
                name for name in COMMANDS if re.search(rf"(^|\s|/){re.escape(name)}(\s|$)", span) and "--" in span
            ]
            for name in called:
                if not any(
                    other.startswith(f"{name} ") for other in called
                ):  # a command of a command is called instead
                    yield name, span


def flags_of_benches(doc: str, known: set[str]) -> set[str]:
    """The options that the document gives to scripts of tests/bench: of commands of ours that they call, or words of the script."""
    flags = set()
    for path, options in re.findall(r"python (tests/bench/\w+\.py)([^\n`]*)", re.sub(r"\\\n\s*", " ", read(doc))):
        for flag in re.findall(r"(?<!\S)(--[a-z][\w-]*)", options):
            name = flag.removeprefix("--").replace("-", "_")
            assert flag in known or re.search(rf"\b{name}\b", read(path)), f"{doc}: {path} has no {flag}"
            flags.add(flag)
    return flags


@pytest.mark.parametrize("doc", DOCS)
def test_options_that_a_document_names_exist(doc):
    for name, line in command_lines(doc):
        own, _, of_train = line.partition(" -- ") if name == "cascade.launch" else (line, "", "")
        assert set(re.findall(r"(?<!\S)(--[a-z][\w-]*)", of_train)) <= flags_of(COMMANDS["train.py"])
        used = set(re.findall(r"(?<!\S)(--[a-z][\w-]*)", own)) - OF_LAUNCHERS
        assert used <= flags_of(COMMANDS[name]), f"{doc}: {name} has no {used - flags_of(COMMANDS[name])}"
    known = OF_LAUNCHERS.union(*(flags_of(command) for command in COMMANDS.values()))
    known |= flags_of_benches(doc, known)
    named = set(re.findall(r"(?<![\w-])(--[a-z][\w-]*)(?!\w*\()", read(doc)))
    assert named <= known, f"{doc} names {sorted(named - known)}"


# paths


def names_in(doc: str) -> Iterator[str]:
    """Links, and what looks like a path of this project in back quotes and in file trees."""
    fenced = r"^```(\w*)\n(.*?)^```"
    trees = [text for kind, text in re.findall(fenced, read(doc), re.DOTALL | re.MULTILINE) if not kind]
    text = re.sub(fenced, "", read(doc), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" not in target and not target.startswith("#"):
            yield target.partition("#")[0]
    for word in (*re.findall(r"`([^`\n]+)`", text), *(word.strip(",:;") for tree in trees for word in tree.split())):
        if re.fullmatch(r"[\w.*-]+(/[\w.*-]+)*(\.py|\.md|\.toml|/)", word) and not OF_RUNS.match(word):
            yield word


def exists(name: str, doc: str) -> bool:
    """As a path from the root, from the document's folder, or as the end of some tracked path."""
    name = name.rstrip("/")
    if (ROOT / doc).parent.joinpath(name).exists() or (ROOT / name).exists():
        return True
    folders = {str(parent) for path in tracked() for parent in Path(path).parents}
    return any(fnmatch(path, f"*/{name}") for path in (*tracked(), *folders))


@pytest.mark.parametrize("doc", DOCS)
def test_paths_that_a_document_names_exist(doc):
    missing = [name for name in names_in(doc) if not exists(name, doc)]
    assert not missing, f"{doc} names {missing}"


def test_the_search_finds_paths_and_options():
    assert "data/README.md" in set(names_in("README.md"))
    assert len(DOCS) >= 7
    assert {name for name, _ in command_lines("README.md")} >= {"train.py", "sample.py", "data.pack"}
    assert not exists("stages/nowhere.py", "README.md")


# the fields of the config


def fields_of(module) -> dict[str, set[str]]:
    """Config class to the names of its fields."""
    classes = (value for value in vars(module).values() if isinstance(value, type) and issubclass(value, BaseModel))
    return {kind.__name__: set(kind.model_fields) for kind in classes}


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        *fields_of(stages.config).items(),
        *(
            (kind.__name__, set(kind.model_fields))
            for kind in (*NETWORKS.values(), *OBJECTIVES.values(), *PARAMETRISATIONS.values(), *SPACES.values())
        ),
    ],
)
def test_every_field_of_a_stage_is_documented(kind, fields):
    table = re.findall(r"^\|(.*)\|$", read("stages/README.md"), re.MULTILINE)
    words = set(re.findall(r"`([\w.]+)`", "\n".join(row.split("|")[0] for row in table)))
    parts = {part for word in words for part in word.split(".")}
    missing = fields - parts - set(OPTIONS)  # which say themselves what they do
    assert not missing, f"stages/README.md lacks {sorted(missing)} of {kind}"


def test_the_fields_are_found():
    assert {
        "TrainConfig",
        "SampleConfig",
        "CondConfig",
        "TextConfig",
        "NoiseConfig",
        "AugConfig",
        "SuperResConfig",
    } <= set(fields_of(stages.config))


def test_the_yaml_of_the_document_is_a_cascade(tmp_path):
    """Loaded as it stands; both stages are built."""
    from cascade.config import load_config
    from stages.build import build_stage

    (text,) = re.findall(r"^```yaml\n(.*?)^```", read("cascade/README.md"), re.DOTALL | re.MULTILINE)
    (tmp_path / "mine.yaml").write_text(text)
    config = load_config(str(tmp_path / "mine.yaml"))
    assert [type(build_stage(stage)).__name__ for stage in config.stages.values()] == ["BaseStage", "SuperResStage"]
