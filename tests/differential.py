"""The differential: whether a refactoring left every number as it was. Two trees run the same cases, compared bit for bit.

    python tests/differential.py                      the working tree against where its branch left main, on main against HEAD~1
    python tests/differential.py v1 --quick           against another commit, the cases that find most
    python tests/differential.py ../other --only sample_heun --only "zero*"
    python tests/differential.py --list

BEFORE is a commit, which is unpacked into a temporary folder, or the folder of another checkout. A case runs commands (data.pack,
train.py, sample.py, cascade.serve) and the one Python interface that stays, `Cascade.load(...).sample(Request(...))`, in a folder
of its own. What it leaves there is compared: tensors with torch.equal, pictures by pixel and by their metadata, JSON by value
without what clocks say, other files by byte. One line a case: equal, or the first difference; exit code 1 if there was any.

Each tree has one process that has imported the libraries, but nothing of the tree, and forks itself for each command. A case that
fails in both trees is a difference, too. `--keep FOLDER` keeps what the commands made and said.
"""

import argparse
import contextlib
import importlib
import importlib.util
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

TREE = "@TREE"
ROOT = Path(__file__).resolve().parents[1]
LIBRARIES = (
    "torch", "torchvision", "kornia", "timm.optim", "timm.utils", "deepspeed", "transformers.models.bert.modeling_bert",
    "tokenizers", "pydantic", "omegaconf", "typer", "webdataset", "safetensors.torch", "PIL.Image", "torch.utils.tensorboard",
    "fastapi", "uvicorn", "prometheus_client",
)  # fmt: skip
OF_CLOCKS = {
    "img_per_s",
    "img_per_s_per_device",
    "wait",
    "memory_mb",
    "eta_s",
    "mfu",
    "save_stall_s",
    "versions",
}  # JSON keys
NOT_COMPARED = ("environment.json", "run.lock", "server", "tensorboard", "inputs", "said.txt")
LIMIT_S = 300  # of one command
FEW = {"base_16": {"num_steps": 4}, "sr_64": {"num_steps": 3}}


# cases: what is run


@dataclass(frozen=True)
class Command:
    """A module or script of the tree, as a user starts it. world: under DeepSpeed in so many processes, 0: no launcher."""

    words: tuple[str, ...]
    world: int = 0


@dataclass(frozen=True)
class Sampling:
    """A request through the Python interface; `events` is what it told, event by event, `image` a picture to make larger."""

    request: dict[str, Any]
    cascade: str = "shipped"
    image: str = ""
    first: str = ""


@dataclass(frozen=True)
class Serving:
    """Jobs of one picture each over HTTP, in turn: all events but previews, whose rate is the clock's, and the pictures."""

    bodies: tuple[dict[str, Any], ...]


Step = Command | Sampling | Serving


@dataclass(frozen=True)
class Case:
    name: str
    steps: tuple[Step, ...]
    quick: bool = True


def command(text: str, *more: str, world: int = 0) -> Command:
    return Command((*text.split(), *more), world)


def packing(out: str) -> Command:
    return command(
        f"-m data.pack inputs/pictures {out} --size 16 --shards 4 --val 0.2 --workers 0 --text-encoder minilm"
    )


def training(cascade: str, stage: str, *options: str, out: str = "run", world: int = 0) -> Command:
    """Six updates of eight images in two micro-batches, with grids, a snapshot and held-out pictures."""
    return command(
        f"train.py inputs/{cascade}.yaml {stage} --data inputs/shards --out {out} --device cpu", *options, world=world
    )


def of(stage: str, **values: object) -> list[str]:
    return [f"stages.{stage}.train.{key}={value}" for key, value in values.items()]


def sampling(*words: str) -> Command:
    """By emoji_tiny, which every tree has, where no cascade is named."""
    chosen = () if "--cascade" in words else ("--cascade", f"{TREE}/cascade/shipped/emoji_tiny")
    return Command(("sample.py", *chosen, *words, "--device", "cpu"))


def steps_of(settings: dict[str, dict[str, Any]]) -> list[str]:
    return [word for stage, own in settings.items() for word in ("--steps", f"{stage}={own['num_steps']}")]


def make_cases() -> list[Case]:
    bf16 = {"precision": "bf16"}
    guided = {
        "base_16": {"num_steps": 6, "guidance_scale": 2.5, "guidance_interval": [0.2, 20.0]}, "sr_64": {"num_steps": 3},
    }  # fmt: skip
    heun, euler = ({stage: own | {"sampler": name} for stage, own in FEW.items()} for name in ("heun", "euler"))
    red, two = ("red heart",), ("red heart", "blue square")
    few = steps_of(FEW)
    return [
        Case("pack", (packing("shards"),)),
        Case("base_classes", (training("classes", "base_8"),)),
        Case("base_text", (training("text", "base_8"),)),
        Case("sr_crop", (training("classes", "sr_16"),)),
        Case("sr_whole", (training("text", "sr_16"),)),
        Case("base_text_bf16", (training("text", "base_8", *of("base_8", **bf16)),)),
        Case("sr_crop_bf16", (training("classes", "sr_16", *of("sr_16", **bf16)),), quick=False),
        Case("sr_whole_bf16", (training("text", "sr_16", *of("sr_16", **bf16)),), quick=False),
        Case("base_classes_fp16", (training("classes", "base_8", *of("base_8", precision="fp16")),), quick=False),
        Case("loader_processes", (training("classes", "base_8", *of("base_8", workers=2)),), quick=False),
        Case("recomputed", (training("text", "base_8", *of("base_8", checkpoint_activations="true")),), quick=False),
        Case("resumed", (
            training("text", "base_8", "--images", "24"), training("text", "base_8", *of("base_8", workers=0)),
        ), quick=False),
        Case("lower", (training("classes", "sr_16", "--lower", "inputs/made/base_8/bundle"),), quick=False),
        Case("zero0", (training("text", "base_8", "--zero", "0", world=1),), quick=False),
        Case("zero1", (training("text", "base_8", "--zero", "1", world=1),), quick=False),
        Case("zero2", (training("classes", "sr_16", "--zero", "2", world=2),)),
        Case("zero3", (training("text", "base_8", "--zero", "3", world=1),)),
        Case("zero3_resumed", (
            training("classes", "sr_16", "--zero", "2", "--images", "24", world=2),
            training("classes", "sr_16", "--zero", "3", world=1),
        ), quick=False),
        Case("sample_guided", (Sampling({"prompts": red, "num": 2, "seed": 3, "settings": guided}),)),
        Case("sample_heun", (
            Sampling({"prompts": red, "num": 2, "settings": heun}),
            sampling(*red, "--num", "2", *few, "--sampler", "heun", "--out", "grid.png"),
        )),
        Case("sample_euler", (
            Sampling({"prompts": red, "num": 2, "settings": euler}),
            sampling(*red, "--num", "2", *few, "--sampler", "euler", "--precision", "bf16", "--out", "grid.png"),
        ), quick=False),
        Case("sample_wide", (
            Sampling({"prompts": two, "num": 1, "size": (64, 96), "settings": FEW}),
            sampling(*two, "--num", "1", "--size", "96x64", *few, "--out", "wide/", "--stages-out"),
        )),
        Case("sample_image", (
            Sampling({"num": 2, "settings": {"sr_64": {"num_steps": 3}}}, image="inputs/small.png", first="sr_64"),
            sampling("--image", "inputs/small.png", "--steps", "sr_64=3", "--out", "larger.png"),
        )),
        Case("sample_pick", (
            Sampling({"prompts": two, "num": 3, "seed": 5, "pick": (1, 4), "settings": FEW}),
            sampling(*two, "--num", "3", "--seed", "5", "--pick", "1,4", *few, "--out", "picked/"),
            sampling("--again", "picked/*", "--out", "again/"),
        )),
        Case("sample_batch", (
            Sampling({"prompts": red, "num": 5, "batch": 2, "settings": FEW}),
            sampling(*red, "--num", "5", "--batch", "2", *few, "--out", "grid.png"),
        ), quick=False),
        Case("sample_labels", (
            Sampling({"labels": (0, 2, 3), "num": 2, "batch": 4}, cascade="inputs/made"),
            sampling("--cascade", "inputs/made", "--label", "1", "--label", "blue", "--num", "2", "--out", "labels/"),
        )),
        Case("sample_base_alone", (
            Sampling({"num": 3, "seed": 2**40, "last": "base_16", "settings": {"base_16": {"num_steps": 4}}}),
        ), quick=False),
        Case("bulk", (
            sampling(*two, "--num", "3", "--until", "base_16", "--steps", "3", "--shard-size", "4", "--out", "bulk"),
        ), quick=False),
        Case("served", (Serving((
            {"prompts": ["red heart"], "seed": 7, "settings": FEW},
            {"prompts": ["blue square"], "seed": 8, "settings": {"base_16": guided["base_16"], "sr_64": heun["sr_64"]}},
            {"prompts": ["red heart"], "seed": 9, "size": [96, 64], "settings": FEW},
        )),), quick=False),
    ]  # fmt: skip


# inputs: the same files for both trees


def train_section(**changed: object) -> dict[str, object]:
    return {
        "images": 48, "batch": 8, "micro_batch": 4, "streams": 4, "workers": 0, "lr": 0.01, "warmup": 8, "ema": [16, 64],
        "precision": "fp32", "compile": False, "save_every": 24, "log_every": 8, "grid_every": 24, "snapshot_every": 24,
        "val_images": 8,
    } | changed  # fmt: skip


def cascades() -> dict[str, dict[str, Any]]:
    """One of classes, whose second stage trains on crops; one of text, whose second stage trains on whole pictures."""
    net = {"widths": [16, 32], "blocks": [1, 1], "head_dim": 16, "emb_dim": 32}
    text = {"text": {"encoder": "minilm", "dim": 384, "tokens": 8}, "drop": 0.3}
    classes = {"num_classes": 4, "drop": 0.3}
    low, noise = {"kind": "super_res", "resolution": 16, "low_res": 8}, {"sigma_data": 0.6}
    attentive = net | {"self_attention": [1], "cross_attention": [1], "dropout": 0.2}
    return {
        "classes": {
            "base_8": {
                "kind": "base", "resolution": 8, "net": net, "cond": classes, "noise": noise, "train": train_section(),
                "sample": {"num_steps": 3, "guidance_scale": 2.0},
            },
            "sr_16": low | {
                "crop": 8, "net": net | {"patch": 2}, "cond": classes, "noise": noise, "train": train_section(flip=True),
                "sample": {"num_steps": 3, "sigma_max": 5.0, "aug_sigma": 0.1},
            },
        },
        "text": {
            "base_8": {
                "kind": "base", "resolution": 8, "net": attentive, "cond": text, "noise": noise,
                "train": train_section(schedule="rsqrt"), "sample": {"num_steps": 3, "guidance_scale": 2.0, "sampler": "heun"},
            },
            "sr_16": low | {
                "net": net | {"self_attention": [1]}, "noise": noise, "train": train_section(weight_decay=0.01),
                "sample": {"num_steps": 3, "sigma_max": 5.0, "sampler": "euler"},
            },
        },
    }  # fmt: skip


def write_inputs(folder: Path) -> None:
    """Pictures with captions and classes, a small picture, two cascades as YAML."""
    import numpy as np
    from PIL import Image

    pictures = folder / "pictures"
    pictures.mkdir(parents=True)
    numbers, rows, grid = np.random.default_rng(0), [], np.linspace(0, 255, 20)
    for k in range(60):
        color = ("red", "green", "blue", "gray")[k % 4]
        ramp = np.add.outer(grid * numbers.uniform(), grid * numbers.uniform()) / 2
        tint = np.eye(4)[k % 4][:3] * 120 + numbers.uniform(0, 60, 3)
        image = ramp[..., None] / 2 + tint + numbers.normal(0, 6, (20, 20, 3))
        Image.fromarray(image.clip(0, 255).astype("uint8")).save(pictures / f"{k:03d}.png")
        rows.append({"file_name": f"{k:03d}.png", "text": f"a {color} ramp number {k}", "label": color})
    (pictures / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    ramp = np.add.outer(np.arange(16) * 8, np.arange(16) * 6)
    Image.fromarray(np.stack([ramp, 200 - ramp // 2, ramp // 3], -1).astype("uint8")).save(folder / "small.png")
    for name, stages in cascades().items():  # JSON is YAML
        (folder / f"{name}.yaml").write_text(json.dumps({"name": name, "stages": stages}))


PREPARING = Case("prepare", (
    packing("inputs/shards"),
    training("classes", "base_8", out="inputs/made"),
    training("classes", "sr_16", out="inputs/made"),
))  # fmt: skip


# one tree: a process that forks itself for every command


def serve_tree(tree: Path) -> None:
    """Reads a line of JSON for each step, {"case", "step", "folder"}, and answers with {"code"}."""
    sys.path[:] = [str(tree), *(p for p in sys.path if Path(p or ".").resolve() not in (ROOT, Path(__file__).parent))]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for name in LIBRARIES:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    import torch

    torch.set_num_threads(1)
    assert not {"data", "stages", "cascade"} & {name.partition(".")[0] for name in sys.modules}
    for package in ("data", "stages", "cascade"):
        spec = importlib.util.find_spec(package)
        assert spec is not None
        assert spec.origin is not None
        assert Path(spec.origin).is_relative_to(tree), f"{package} would come from {spec.origin}, not from {tree}"
    print(json.dumps({"code": 0}), file=answers, flush=True)
    cases = {case.name: case for case in (PREPARING, *make_cases())}
    for line in sys.stdin:
        told = json.loads(line)
        code = run_step(tree, cases[told["case"]].steps[told["step"]], Path(told["folder"]), told["step"])
        print(json.dumps({"code": code}), file=answers, flush=True)


def run_step(tree: Path, step: Step, folder: Path, number: int) -> int:
    """The worst exit code of its processes."""
    if isinstance(step, Command):
        words = [word for text in step.words for word in (map(str, globbed(folder, text)) if "*" in text else [text])]
        ranks = [launched(rank, step.world) for rank in range(step.world)] or [{}]
        port = str(free_port())
        started = [
            fork(folder, lambda: run_program(tree, words), rank | {"MASTER_PORT": port} if rank else {})
            for rank in ranks
        ]
        return max(ended(pid) for pid in started)
    if isinstance(step, Sampling):
        return ended(fork(folder, lambda: tell_events(tree, step, folder / f"events{number}")))
    store = folder / "server"
    store.mkdir()
    words = ["-m", "cascade.serve", "--port", "0", "--device", "cpu", "--store", "server/store"]
    words += ["--cascade", f"{TREE}/cascade/shipped/emoji_tiny"]
    server = fork(store.parent, lambda: run_program(tree, words), said=store / "address.txt")
    try:
        return ended(fork(folder, lambda: tell_jobs(step, store / "address.txt", folder / "served")))
    finally:
        os.kill(server, signal.SIGTERM)
        ended(server)


def globbed(folder: Path, pattern: str) -> list[Path]:
    return [path.relative_to(folder) for path in sorted(folder.glob(pattern))][:1]


def launched(rank: int, world: int) -> dict[str, str]:
    """What a launcher says to one of its processes."""
    return {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
    }  # fmt: skip


def free_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def fork(
    folder: Path, job: Callable[[], object], environment: dict[str, str] | None = None, said: Path | None = None
) -> int:
    """A process of its own that does `job` in `folder`; what it prints goes to said.txt there, or to `said`."""
    if pid := os.fork():
        return pid
    code = 1
    try:
        log = os.open(said or folder / "said.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ |= environment or {}
        os.chdir(folder)
        job()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(bool(end.code))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def ended(pid: int) -> int:
    """Its exit code; a process that takes too long is killed."""
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return abs(os.waitstatus_to_exitcode(status))
        time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return 124


def run_program(tree: Path, words: list[str]) -> None:
    """As `python WORDS...` would; TREE in a word is where the tree lies."""
    words = [word.replace(TREE, str(tree)) for word in words]
    if words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = [str(tree / words[0]), *words[1:]]
        runpy.run_path(sys.argv[0], run_name="__main__")


def tell_events(tree: Path, step: Sampling, folder: Path) -> None:
    """The events of a request: their fields as JSON, their pictures as tensors."""
    import numpy as np
    import torch
    from PIL import Image
    from safetensors.torch import save_file

    Cascade, Request = (
        anywhere("Cascade", "cascade", "cascade.pipeline"),
        anywhere("Request", "cascade", "cascade.request"),
    )
    torch.set_flush_denormal(True)
    folder.mkdir()
    path = tree / "cascade" / "shipped" / "emoji_tiny" if step.cascade == "shipped" else Path(step.cascade)
    model = Cascade.load(path, first=step.first)
    request = step.request
    if step.image:
        pixels = torch.from_numpy(np.array(Image.open(step.image)))
        request = request | {"low_res": pixels.permute(2, 0, 1)[None].contiguous()}
    told, tensors = [], {}
    for k, event in enumerate(model.sample(Request(**request))):
        kind = type(event).__name__
        fields = {
            name: getattr(event, name)
            for name in ("stage", "index", "step", "nfe", "num", "last")
            if hasattr(event, name)
        }
        told.append({"event": kind} | fields)
        for name in ("x0_hat", "images"):
            if hasattr(event, name):
                tensors[f"{k:03d} {kind} {fields['stage']} {name}"] = (
                    getattr(event, name).detach().cpu().contiguous().clone()
                )
    (folder / "events.json").write_text(json.dumps(told))
    save_file(tensors, folder / "pictures.safetensors")


def anywhere(name: str, *modules: str) -> Any:
    """The first of these modules that has it."""
    for module in modules:
        with contextlib.suppress(ImportError, AttributeError):
            return getattr(importlib.import_module(module), name)
    raise ImportError(f"no {name} in {', '.join(modules)}")


def tell_jobs(step: Serving, said: Path, folder: Path) -> None:
    """Each job's events as JSON, its pictures as files."""
    url = address(said)
    folder.mkdir()
    for k, body in enumerate(step.bodies):
        words = json.dumps({"num": 1} | body).encode()
        post = urllib.request.Request(f"{url}/v1/jobs", words, {"content-type": "application/json"})
        with urllib.request.urlopen(post, timeout=LIMIT_S) as answer:
            job = json.load(answer)["id"]
        with urllib.request.urlopen(f"{url}/v1/jobs/{job}/events", timeout=LIMIT_S) as answer:
            events = [event for event in stream(answer) if event["event"] != "preview"]
        (folder / f"{k}.json").write_text(json.dumps(events).replace(job, "JOB"))
        for stage in ("base_16", "sr_64"):
            with urllib.request.urlopen(f"{url}/v1/jobs/{job}/stages/{stage}/0.png", timeout=LIMIT_S) as answer:
                (folder / f"{k}-{stage}.png").write_bytes(answer.read())


def address(said: Path) -> str:
    """Of a server, when it has told it."""
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        lines = [line for line in (said.read_text() if said.exists() else "").splitlines() if " at http://" in line]
        if lines:
            return lines[0].split()[-1].rstrip("/")
        time.sleep(0.05)
    raise TimeoutError(f"no server was ready within {LIMIT_S} s")


def stream(lines: Any) -> Iterator[dict[str, Any]]:
    """The events of an SSE answer."""
    name = ""
    for line in lines:
        key, _, value = line.decode().rstrip("\n").partition(": ")
        if key == "event":
            name = value
        elif key == "data":
            yield {"event": name, "data": json.loads(value)}


# two trees


@dataclass
class Tree:
    """The process of one tree. work: the folder of its cases."""

    path: Path
    work: Path
    process: subprocess.Popen[str] = field(init=False)

    def __post_init__(self) -> None:
        environment = os.environ | {
            "PYTHONPATH": str(self.path), "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE",
            "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu", "TOKENIZERS_PARALLELISM": "false",
        }  # fmt: skip
        self.work.mkdir(parents=True)
        with (self.work / "worker.log").open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, __file__, "--tree", str(self.path)],
                cwd=self.work, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip

    def answer(self) -> int:
        """Of the step before; -1 where the process is no more."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        return json.loads(line)["code"] if line else -1

    def run(self, case: Case, inputs: Path) -> int:
        """The exit code of the first step that failed, or 0."""
        assert self.process.stdin is not None
        folder = self.work / case.name
        folder.mkdir()
        (folder / "inputs").symlink_to(inputs)
        for step in range(len(case.steps)):
            print(
                json.dumps({"case": case.name, "step": step, "folder": str(folder)}),
                file=self.process.stdin,
                flush=True,
            )
            if code := self.answer():
                return code
        return 0

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def unpacked(before: str, folder: Path) -> Path:
    """The tree of a commit, or the folder of a checkout."""
    if (Path(before) / "train.py").is_file():
        return Path(before).resolve()
    folder.mkdir()
    with subprocess.Popen(["git", "archive", before], cwd=ROOT, stdout=subprocess.PIPE) as archive:
        subprocess.run(["tar", "-x", "-C", str(folder)], stdin=archive.stdout, check=True)
    if archive.returncode:
        raise SystemExit(f"error: {before} is neither a commit nor the folder of a checkout")
    return folder


def base_commit() -> str:
    """Where this branch left main; on main the commit before, or HEAD where something is not committed yet."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True).stdout.strip()

    head, base = git("rev-parse", "HEAD"), git("merge-base", "HEAD", "main")
    if base and base != head:
        return base
    return "HEAD" if git("status", "--porcelain", "--untracked-files=no") else "HEAD~1"


# what is compared


def differences(old: Path, new: Path) -> Iterator[str]:
    """What differs between the files of two folders, the first numbers of a training first."""
    there = [{str(path.relative_to(folder)) for path in files_in(folder)} for folder in (old, new)]
    for name in sorted(there[0] ^ there[1]):
        yield f"{name}: only {'before' if name in there[0] else 'after'}"
    for name in sorted(there[0] & there[1], key=lambda name: (not name.endswith(".jsonl"), name)):
        yield from (f"{name}: {what}" for what in compare(old / name, new / name))


def files_in(folder: Path) -> list[Path]:
    return [
        path
        for path in folder.rglob("*")
        if path.is_file() and not set(path.relative_to(folder).parts) & set(NOT_COMPARED)
    ]


def compare(old: Path, new: Path) -> Iterator[str]:
    if old.suffix == ".safetensors":
        from safetensors.torch import load_file

        yield from compare_tensors(load_file(old), load_file(new))
    elif old.suffix == ".png":
        yield from compare_pictures(old, new)
    elif old.suffix == ".jsonl":
        before, after = ([json.loads(line) for line in path.read_text().splitlines()] for path in (old, new))
        yield from compare_values(before, after)
    elif old.suffix == ".json":
        yield from compare_values(json.loads(old.read_text()), json.loads(new.read_text()))
    elif old.read_bytes() != new.read_bytes():
        yield "other bytes"


def compare_tensors(old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    import torch

    for name in sorted(old.keys() | new.keys()):
        if name not in old or name not in new:
            yield f"tensor {name}: only {'before' if name in old else 'after'}"
            continue
        a, b = old[name], new[name]
        if (a.dtype, a.shape) != (b.dtype, b.shape):
            yield f"tensor {name}: {a.dtype} {tuple(a.shape)} was, {b.dtype} {tuple(b.shape)} is"
        elif not torch.equal(a, b):
            yield f"tensor {name}: max abs difference {(a.double() - b.double()).abs().max().item():.3g}"


def compare_pictures(old: Path, new: Path) -> Iterator[str]:
    import numpy as np
    from PIL import Image

    with Image.open(old) as a, Image.open(new) as b:
        pixels = [np.asarray(each).astype(int) for each in (a, b)]
        texts = [{key: parsed(value) for key, value in each.info.items()} for each in (a, b)]
    if pixels[0].shape != pixels[1].shape:
        yield f"shape {pixels[0].shape} was, {pixels[1].shape} is"
    elif (most := abs(pixels[0] - pixels[1]).max()) > 0:
        yield f"pixels up to {most} levels apart"
    yield from compare_values(texts[0], texts[1])


def parsed(text: Any) -> Any:
    with contextlib.suppress(ValueError, TypeError):
        return json.loads(text)
    return text


def compare_values(old: Any, new: Any, where: str = "") -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted((old.keys() | new.keys()) - OF_CLOCKS):
            if key not in old or key not in new:
                yield f"{where}.{key}: only {'before' if key in old else 'after'}"
            else:
                yield from compare_values(old[key], new[key], f"{where}.{key}")
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for k, (a, b) in enumerate(zip(old, new, strict=True)):
            yield from compare_values(a, b, f"{where}[{k}]")
    elif old != new:
        apart = f", {abs(old - new):.3g} apart" if isinstance(old, float) and isinstance(new, float) else ""
        yield f"{where.lstrip('.') or 'value'}: {short(old)} was, {short(new)} is{apart}"


def short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 80 else text[:77] + "..."


# the command


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare two trees bit for bit: training, sampling, serving.")
    parser.add_argument(
        "before", nargs="?", help="commit, or folder of another checkout [default: where the branch left main]"
    )
    parser.add_argument("--quick", action="store_true", help="only the cases that find most")
    parser.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="cases of this name, or like zero*; may be repeated"
    )
    parser.add_argument("--keep", type=Path, help="folder, not there yet, in which everything stays")
    parser.add_argument("--list", action="store_true", help="say the names of the cases")
    parser.add_argument("--tree", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.tree:
        serve_tree(given.tree)
        return 0
    cases = [
        case
        for case in make_cases()
        if (any(fnmatch(case.name, name) for name in given.only) if given.only else case.quick or not given.quick)
    ]
    if not cases:
        parser.error(f"--only {' '.join(given.only)}: no such case; --list says them")
    if given.list:
        print("\n".join(case.name for case in cases))
        return 0
    with contextlib.ExitStack() as stack:
        if given.keep:
            given.keep.mkdir(parents=True)
            folder = given.keep.resolve()
        else:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="differential-"))).resolve()
        return run(given.before or base_commit(), cases, folder)


def run(before: str, cases: list[Case], folder: Path) -> int:
    """1 if any case differs."""
    started = time.monotonic()
    inputs = folder / "inputs"
    write_inputs(inputs)
    trees = [Tree(unpacked(before, folder / "tree"), folder / "old"), Tree(ROOT, folder / "new")]
    print(f"before: {before}; after: {ROOT}", flush=True)
    try:
        with ThreadPoolExecutor(2) as pool:
            for tree, code in zip(trees, pool.map(Tree.answer, trees), strict=True):
                if code:
                    print(f"{tree.path} does not start:\n{(tree.work / 'worker.log').read_text()[-2000:]}")
                    return 1
            if trees[0].run(PREPARING, inputs):
                print(
                    f"shards and a cascade could not be made:\n{(folder / 'old/prepare/said.txt').read_text()[-2000:]}"
                )
                return 1
            wrong = sum([not is_equal(case, trees, inputs, pool) for case in cases])
    finally:
        for tree in trees:
            tree.close()
    print(f"{len(cases) - wrong} of {len(cases)} cases are equal, {time.monotonic() - started:.0f} s")
    return int(wrong > 0)


def is_equal(case: Case, trees: list[Tree], inputs: Path, pool: ThreadPoolExecutor) -> bool:
    """Runs a case in both trees and says a line about it."""
    started = time.monotonic()
    codes = list(pool.map(lambda tree: tree.run(case, inputs), trees))
    folders = [tree.work / case.name for tree in trees]
    if any(codes):
        print(f"FAILED    {case.name}: exit code {codes[0]} before, {codes[1]} after", flush=True)
        for name, code, where in zip(("before", "after"), codes, folders, strict=True):
            said = where / "said.txt"
            if code and said.exists():
                print(
                    "".join(f"    {name}: {line}\n" for line in said.read_text().splitlines()[-6:]), end="", flush=True
                )
        return False
    found, num = list(differences(*folders)), len(files_in(folders[1]))
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    told = f"DIFFERENT {case.name}: {found[0]}{more}" if found else f"equal     {case.name}: {num} files"
    if not num:
        told, found = f"FAILED    {case.name}: it left no files", ["nothing"]
    print(f"{told}, {time.monotonic() - started:.0f} s", flush=True)
    return not found


if __name__ == "__main__":
    raise SystemExit(main())
