"""What others rely on, as JSON in tests/frozen/: options of the commands, keys of the YAML, settings of sampling, routes and bodies
of the server, `/v1/models`, the keys of the files that are written, and what the presets cost. Prose (help texts, titles,
descriptions) is left out.

    python -m tests.surface             prints what changed
    python -m tests.surface --write     writes it anew: for a change that is meant, which its commit explains

tests/test_surface.py compares.
"""

import json
import re
import subprocess
import sys
import tempfile
import types
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from functools import cache
from inspect import Parameter, signature
from io import StringIO
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import typer

import cascade.card.__main__
import cascade.demo
import cascade.guide
import cascade.judge.__main__
import cascade.launch
import cascade.serve.__main__
import cascade.serve.on_ray
import data.index.tally
import data.pack.__main__
import data.styles.__main__
import data.world.__main__
import sample
import stages.export
import stages.likelihood
import stages.measure
import stages.runs
import train

ROOT = Path(__file__).parents[1]
FROZEN = ROOT / "tests" / "frozen"
SHIPPED = ROOT / "cascade" / "shipped" / "emoji_tiny"
COMMANDS: dict[str, Callable[..., object]] = {
    "train.py": train.main,
    "sample.py": sample.main,
    "data.pack": data.pack.__main__.main,
    "data.index": data.index.tally.main,
    "data.styles": data.styles.__main__.main,
    "data.world": data.world.__main__.main,
    "cascade.card": cascade.card.__main__.main,
    "cascade.demo": cascade.demo.main,
    "cascade.judge": cascade.judge.__main__.judge_main,
    **{f"cascade.judge {name}": command for name, command in cascade.judge.__main__.COMMANDS.items()},
    "cascade.guide": cascade.guide.main,
    "cascade.launch": cascade.launch.main,
    "cascade.serve": cascade.serve.__main__.main,
    "cascade.serve.on_ray": cascade.serve.on_ray.main,
    "stages.export": stages.export.main,
    "stages.likelihood": stages.likelihood.main,
    "stages.measure": stages.measure.main,
    "stages.runs": stages.runs.main,
}
NUMBER = re.compile(r"(?<![\w.])\d[\d.]*(?: (?:[kMGTPEZ]?(?:FLOP|B)|[kM])\b)?")
PROSE = ("title", "description", "summary")


def commands() -> dict[str, Any]:
    """By command: its arguments, in order, and its options."""
    return {name: options(command) for name, command in COMMANDS.items()}


def options(command: Callable[..., object]) -> dict[str, Any]:
    app = typer.Typer(add_completion=False)
    app.command()(command)
    hints, parameters = get_type_hints(command, include_extras=True), signature(command).parameters
    arguments, flags = [], {}
    for each in typer.main.get_command(app).params:
        type_, info = (
            get_args(hints[each.name]) if get_origin(hints[each.name]) is Annotated else (hints[each.name], None)
        )
        default = parameters[each.name].default
        kind = {"type": name_of(type_), "default": "REQUIRED" if default is Parameter.empty else plain(default)}
        bounds = {name: getattr(info, name, None) for name in ("min", "max")}
        kind |= {name: value for name, value in bounds.items() if value is not None}
        if isinstance(info, typer.models.ArgumentInfo):
            arguments.append({"name": each.name} | kind)
        else:
            flags[" ".join((*each.opts, *each.secondary_opts))] = kind
    return {"arguments": arguments, "options": flags}


def name_of(type_: Any) -> str:
    """As it is written: list[str] | None."""
    if isinstance(type_, types.UnionType) or get_origin(type_) is Union:
        return " | ".join(map(name_of, get_args(type_)))
    if parts := get_args(type_):
        return f"{get_origin(type_).__name__}[{', '.join(map(name_of, parts))}]"
    return (
        "None" if type_ is types.NoneType else getattr(type_, "__name__", repr(type_))
    )  # a Literal's values have no name


def plain(value: Any) -> Any:
    """As JSON has it; paths of this tree from its root."""
    if isinstance(value, Path):
        return value.relative_to(ROOT).as_posix() if value.is_relative_to(ROOT) else value.as_posix()
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return value


def yaml() -> dict[str, Any]:
    """Keys of a cascade's YAML; names of our classes are left out."""
    from cascade.config import CascadeConfig

    return inlined(CascadeConfig.model_json_schema())


def sampling() -> dict[str, Any]:
    """Settings of a stage in requests, in cascade.json and in metadata."""
    from stages.config import SampleConfig

    return inlined(SampleConfig.model_json_schema())


def inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """A JSON schema without prose, with each reference replaced by what it means."""
    parts = schema.pop("$defs", {})

    def whole(node: Any) -> Any:
        if isinstance(node, dict):
            if "$ref" in node:
                return whole(parts[node["$ref"].rpartition("/")[2]] | {k: v for k, v in node.items() if k != "$ref"})
            return {key: whole(value) for key, value in node.items() if key != "mapping"}
        return [whole(each) for each in node] if isinstance(node, list) else node

    found = without_prose(whole(schema))
    assert isinstance(found, dict)
    return found


def without_prose(node: Any) -> Any:
    if isinstance(node, dict):
        return {k: without_prose(v) for k, v in node.items() if not (k in PROSE and isinstance(v, str))}
    return [without_prose(each) for each in node] if isinstance(node, list) else node


def openapi() -> dict[str, Any]:
    """Routes, their parameters and bodies."""
    told = served()[0]
    return without_prose({name: told[name] for name in ("paths", "components")})


def models() -> dict[str, Any]:
    """`/v1/models`."""
    return served()[1]


@cache
def served() -> tuple[dict[str, Any], dict[str, Any]]:
    """openapi.json and `/v1/models` of a server of the cascade that ships."""
    from tests.serve.serving import Serving, load

    with tempfile.TemporaryDirectory() as folder:
        serving = Serving(load(), Path(folder) / "store")
        try:
            return serving.client.get("/openapi.json").json(), serving.client.get("/v1/models").json()
        finally:
            serving.close()


def files() -> dict[str, Any]:
    """Keys of stage.json, cascade.json and request.json, each with the type of its value."""
    from cascade.output.bulk import asked
    from cascade.pipeline import Cascade
    from cascade.request import Request
    from stages.config import TextConfig
    from tests.cascade.chains import ENCODER, tiny_config, write_bundle, write_cascade

    text = TextConfig(encoder="minilm", dim=384, tokens=4)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_cascade(folder / "class", tiny_config(classes=2), classes=("a", "b"))
        write_bundle(folder / "text", tiny_config(text=text).stages["base_8"], text_encoder=ENCODER)
        model = Cascade.load(folder / "class")
        return {
            "cascade.json": types_in(read(folder / "class" / "cascade.json")),
            "stage.json, base, text": types_in(read(folder / "text" / "stage.json")),
            "stage.json, super_res, classes": types_in(read(folder / "class" / "sr_16" / "bundle" / "stage.json")),
            "request.json, prompts": types_in(asked(Cascade.load(SHIPPED).resolve(Request(prompts=("x",))), 2)),
            "request.json, labels": types_in(asked(model.resolve(Request(labels=(0,), size=(8, 8))), 2)),
        }


def plans() -> dict[str, Any]:
    """Of a process of its own, as a user has it: what ran before in this one moves estimates of activations by some per cent."""
    command = [sys.executable, "-m", "tests.surface", "--plans"]
    done = subprocess.run(command, cwd=FROZEN.parents[1], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def plans_here() -> dict[str, Any]:
    """What `train.py --dry-run --world 8` prints of each stage of the presets: the numbers of each line, with their units."""
    from cascade.config import PRESETS, load_config
    from tests.calling import call

    found = {}
    for name in sorted(path.stem for path in PRESETS.glob("*.yaml")):
        for stage in load_config(name).stages:
            with redirect_stdout(StringIO()) as told:
                assert call(train.main, name, stage, "--dry-run", "--world", "8", "--device", "cpu") == 0
            lines = [line.strip().partition("  ") for line in told.getvalue().splitlines() if line.startswith("  ")]
            lines.append(("cascade", "", told.getvalue().splitlines()[-2]))
            found[f"{name} {stage}"] = {label: NUMBER.findall(text) for label, _, text in lines if NUMBER.search(text)}
    return found


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def types_in(values: Any) -> dict[str, str]:
    """A dotted key to the type of its value; of lists the first."""
    found: dict[str, str] = {}
    for key, value in leaves(json.loads(json.dumps(values))):
        found.setdefault(key, type(value).__name__)
    return found


def leaves(node: Any, place: str = "", *, numbered: bool = False) -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of everything in a JSON text that is no object and no list, or an empty one."""
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from leaves(value, f"{place}.{key}" if place else key, numbered=numbered)
    elif isinstance(node, list) and node:
        for number, value in enumerate(node):
            yield from leaves(value, f"{place}[{number if numbered else ''}]", numbered=numbered)
    else:
        yield place, node


def changes(before: Any, now: Any) -> list[str]:
    """A line for each value that went (-) or came (+), by its dotted key."""
    old, new = dict(leaves(before, numbered=True)), dict(leaves(now, numbered=True))
    keys = list(dict.fromkeys(chain(old, new)))
    return [
        f"{sign} {key}: {json.dumps(values[key])}"
        for key in keys
        for sign, values, others in (("-", old, new), ("+", new, old))
        if key in values and (key not in others or json.dumps(values[key]) != json.dumps(others[key]))
    ]


SURFACE = {
    "commands": commands,
    "yaml": yaml,
    "sampling": sampling,
    "files": files,
    "openapi": openapi,
    "models": models,
    "plans": plans,
}


def frozen(name: str) -> Any:
    path = FROZEN / f"{name}.json"
    return read(path) if path.exists() else {}


def main() -> None:
    if "--plans" in sys.argv[1:]:
        print(json.dumps(plans_here()))
        return
    for name, of_now in SURFACE.items():
        now = of_now()
        for line in changes(frozen(name), now):
            print(f"{name}: {line}")
        if "--write" in sys.argv[1:]:
            text = json.dumps(now, indent=1, sort_keys=name not in ("commands", "plans"), ensure_ascii=False)
            (FROZEN / f"{name}.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
