"""A quarter of an hour on one GPU, used at once: everything that this project says, or should say, about GPUs, measured in one go.

    python tests/bench/gpu.py --out results --shards shards/emoji_64               at most 9 minutes on one H100
    python tests/bench/gpu.py --out results --shards shards/emoji_64 --device cpu --quick     does every part run here?

Writes results.json and results.md into --out after each part, so that what was measured is there whatever happens later. A part
that fails is reported and the next one runs; each has a bound in seconds. Parts, by value: updates beside diffusers (as its README
runs it, and tuned), MFU and memory of the six reference stages, sampling (eager, compiled, CUDA graphs), DeepSpeed ZeRO 0 to 3
beside the local engine, the loader's rate, where memory ends; then, for the time that is left, the base stage of `emoji` is trained
and its bundle put beside the results, in pieces of 15 MB.

Beside torch, torchvision, timm, tensorboard, typer, numpy, pillow and safetensors it needs the wheels of kornia, kornia_rs,
webdataset, braceexpand, deepspeed, hjson, msgpack, py-cpuinfo, pydantic, pydantic-core, annotated-types, typing-inspection,
omegaconf, antlr4-python3-runtime and diffusers. Shards: python -m data.pack EMOJI shards/emoji_64 --size 64 --text-encoder minilm
--val 0.05. Compiling takes most of the time: two networks a side, four at once, 60 to 150 s on 16 cores.
"""

import json
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer
from machine import describe, table

from data.cli import run

ROOT = Path(__file__).parents[2]
PIECE = 15 << 20
ROOM_GB = 66.0  # of jobs that are prepared together
README = {"precision": "fp32", "channels_last": False, "compiled": False}
EAGER = {"precision": "bf16", "channels_last": True, "compiled": False}
TUNED = EAGER | {"compiled": True}
ROOM = {  # gigabytes that an update may take
    ("base", "ours", "bf16"): 14.0,
    ("base", "diffusers", "bf16"): 21.0,
    ("base", "diffusers", "fp32"): 24.0,
    ("sr", "ours", "bf16"): 21.0,
    ("sr", "diffusers", "bf16"): 46.0,
    ("sr", "diffusers", "fp32"): 66.0,
}
REFERENCE = (  # cascade, stage, gigabytes that a job may take
    ("imagenet_256", "sr_256", 9.0),
    ("imagenet_256", "base_32", 17.0),
    ("imagenet_256", "sr_64", 15.0),
    ("text_1024", "sr_1024", 16.0),
    ("text_1024", "sr_256", 38.0),
    ("text_1024", "base_64", 66.0),
)
Facts = dict[str, Any]


class Peer:
    """A job in a process of its own (gpu_jobs.py)."""

    def __init__(self, name: str, job: Facts, log: Path, gigabytes: float = 10.0):
        self.name, self.job, self.log, self.gigabytes = name, job, log, gigabytes
        self.lines: queue.Queue[str] = queue.Queue()
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        """Begins to prepare; a second call does nothing."""
        if self.process:
            return
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("gpu_jobs.py")), json.dumps(self.job)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log.open("w"),
            text=True,
            start_new_session=True,
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process
        assert self.process.stdout
        for line in self.process.stdout:
            self.lines.put(line.strip())
        self.lines.put("")

    def answer(self, seconds: float) -> str:
        """The next line it prints. Raises RuntimeError where it ends or says nothing for so long."""
        try:
            line = self.lines.get(timeout=max(seconds, 0.1))
        except queue.Empty:
            raise RuntimeError(f"{self.name}: no answer in time") from None
        if not line:
            told = self.log.read_text().strip().splitlines()
            raise RuntimeError(f"{self.name}: ended; {told[-1][:300] if told else 'nothing was printed'}")
        return line

    def ask(self, seconds: float) -> Facts:
        assert self.process
        assert self.process.stdin
        print("go", file=self.process.stdin, flush=True)
        return json.loads(self.answer(seconds))

    def close(self) -> None:
        assert self.process
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Session:
    """The clock, the results so far, and how parts are run."""

    def __init__(self, out: Path, device: str, quick: bool, seconds: float, shards: Path):
        self.out, self.device, self.quick, self.shards = out, device, quick, shards
        self.began, self.seconds = time.monotonic(), seconds
        self.results: Facts = {"machine": {"described": describe(), "device": device, "gpu": gpu_name(device)}}
        out.mkdir(parents=True, exist_ok=True)
        (out / "logs").mkdir(exist_ok=True)

    @property
    def left(self) -> float:
        return self.seconds - (time.monotonic() - self.began)

    def part(self, name: str, bound: float, work: Callable[[float], Facts]) -> None:
        """Runs one part for at most `bound` seconds, keeps what it found or why it failed."""
        began, bound = time.monotonic(), min(bound, self.left)
        if bound < 5:
            self.results[name] = {"failed": "no time was left"}
        else:
            try:
                self.results[name] = work(began + bound)
            except Exception as error:
                self.results[name] = {"failed": f"{type(error).__name__}: {error}"}
        self.results[name]["seconds"] = round(time.monotonic() - began, 1)
        print(f"[{self.seconds - self.left:5.0f} s] {name}: {json.dumps(self.results[name])[:600]}", flush=True)
        (self.out / "results.json").write_text(json.dumps(self.results, indent=1))
        (self.out / "results.md").write_text(report(self.results))

    def peer(self, name: str, gigabytes: float = 10.0, **job: Any) -> Peer:
        facts = {"device": self.device, "quick": self.quick} | job
        return Peer(name, facts, self.out / "logs" / f"{name.replace(' ', '-').replace('/', '-')}.log", gigabytes)

    def measured(self, peers: Sequence[Peer], until: float, turns: int) -> Facts:
        """Every peer's answers, in turns within groups that fit the memory; why a peer failed, where it did."""
        found: Facts = {}
        waiting = list(peers)
        while waiting:
            group, size = [], 0.0
            while waiting and (not group or size + waiting[0].gigabytes <= ROOM_GB):
                size += waiting[0].gigabytes
                group.append(waiting.pop(0))
            found |= self._together(group, until, turns)
        return found

    def _together(self, group: Sequence[Peer], until: float, turns: int) -> Facts:
        found: Facts = {}
        ready: list[Peer] = []
        for peer in group:
            peer.start()
        try:
            for peer in group:
                try:
                    assert peer.answer(until - time.monotonic()) == "ready"
                    ready.append(peer)
                except Exception as error:
                    found[peer.name] = {"failed": str(error)}
                    peer.close()
            for _ in range(turns):
                for peer in list(ready):
                    try:
                        found.setdefault(peer.name, []).append(peer.ask(until + 20 - time.monotonic()))
                    except Exception as error:
                        found[peer.name] = {"failed": str(error)}
                        ready.remove(peer)
        finally:
            for peer in group:
                peer.close()
        return found


def updates(session: Session, compiled: bool) -> Callable[[float], Facts]:
    """Milliseconds of an update, ours and diffusers', in turns; ratios are medians over turns."""

    def work(until: float) -> Facts:
        settings = {"ours tuned": ("ours", TUNED), "diffusers tuned": ("diffusers", TUNED)}
        if not compiled:
            settings = {
                "ours eager": ("ours", EAGER),
                "diffusers eager": ("diffusers", EAGER),
                "diffusers as its README": ("diffusers", README),
            }
        peers = [
            session.peer(
                f"{task} {name}",
                ROOM[task, peer, setting["precision"]],
                kind="update",
                task=task,
                peer=peer,
                setting=setting,
            )
            for task in ("base", "sr")
            for name, (peer, setting) in settings.items()
        ]
        answers = session.measured(peers, until, 2 if session.quick else 12)
        return {name: mean_update(each) for name, each in answers.items()}

    return work


def mean_update(answers: Any) -> Facts:
    if isinstance(answers, dict):
        return answers
    times = [each["ms"] for each in answers]
    return {"ms": median(times), "fastest": min(times), "slowest": max(times), **last_of(answers, "peak_gb")}


def last_of(answers: list[Facts], *keys: str) -> Facts:
    return {key: answers[-1][key] for key in keys if key in answers[-1]}


def reference(session: Session, compiled: bool) -> Callable[[float], Facts]:
    """Updates of the reference stages at their micro-batch: images a second, MFU, memory beside the planner's."""
    from stages.tools.cost import mfu

    def work(until: float) -> Facts:
        stages = (("emoji_tiny", "base_16", 1.0), ("emoji_tiny", "sr_64", 1.0)) if session.quick else REFERENCE
        peers = [
            session.peer(f"{cascade}/{name}", room, kind="stage", cascade=cascade, stage=name, compiled=compiled)
            for cascade, name, room in (stages[:3] if compiled else stages)
        ]
        found = {}
        for name, answers in session.measured(peers, until, 2 if session.quick else 6).items():
            found[name] = mean_update(answers)
            if isinstance(answers, list):
                rate = 1000 * answers[0]["micro_batch"] / found[name]["ms"]
                found[name] |= {"img_per_s": rate} | last_of(answers, "micro_batch", "planned_gb")
                if session.device == "cuda":
                    found[name]["mfu"] = mfu(rate, answers[0]["train_flops"], peak())
        return found

    return work


def peak() -> float:
    import torch

    from stages.tools.cost import peak_flops

    return peak_flops(torch.device("cuda")) or float("nan")


def samplers(session: Session) -> list[Peer]:
    """The engine with the networks of `emoji_tiny`, eager, compiled and as CUDA graphs."""
    modes = ("eager",) if session.quick else ("eager", "compiled", "CUDA graphs")
    return [session.peer(mode, 3.0, kind="engine", mode=mode, cascade="emoji_tiny", precision="bf16") for mode in modes]


def sampling(session: Session, peers: list[Peer]) -> Callable[[float], Facts]:
    """Pictures a second of one client and of 16, by how networks run."""

    def work(until: float) -> Facts:
        answers = session.measured(peers, until, 1)
        return {name: each if isinstance(each, dict) else each[0] for name, each in answers.items()}

    return work


def curves(session: Session) -> Callable[[float], Facts]:
    """Losses of the same updates by the local engine and by DeepSpeed at ZeRO 0 to 3, all at once."""

    def work(until: float) -> Facts:
        updates = 3 if session.quick else 30
        running = {}
        for name in ("local", "zero-0", "zero-1", "zero-2", "zero-3"):
            folder = session.out / "logs" / f"curve-{name}"
            shutil.rmtree(folder, ignore_errors=True)
            more = ["--engine", "local"] if name == "local" else ["--engine", "deepspeed", "--zero", name[-1]]
            wide = {
                "RANK": "0",
                "WORLD_SIZE": "1",
                "LOCAL_RANK": "0",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port()),
            }
            command = [sys.executable, str(ROOT / "train.py"), "emoji_tiny", "base_16", "--data", str(session.shards)]
            command += ["--out", str(folder), "--device", session.device, "--images", str(16 * updates), *more]
            command += [f"stages.base_16.train.{each}" for each in (
                "batch=16", "log_every=16", "compile=false", "precision=fp32", "warmup=64", "val_images=0", "workers=0"
            )]  # fmt: skip
            running[name] = subprocess.Popen(
                command,
                env=os.environ | ({} if name == "local" else wide),
                stdout=(session.out / "logs" / f"curve-{name}.log").open("w"),
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        losses: dict[str, list[float]] = {}
        found: Facts = {}
        for name, process in running.items():
            try:
                code = process.wait(max(until - time.monotonic(), 1))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                code = None
            path = session.out / "logs" / f"curve-{name}" / "base_16" / "metrics.jsonl"
            lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
            losses[name] = [line["loss"] for line in lines]
            found[name] = {"exit": code, "updates": len(lines), "last loss": losses[name][-1] if lines else None}
        for name, each in losses.items():
            pairs = list(zip(losses["local"], each, strict=False))
            found[name]["largest difference"] = max((abs(a - b) / abs(a) for a, b in pairs), default=None)
        return found

    return work


def loader(session: Session) -> Callable[[float], Facts]:
    """Images a second that the loader gives, by worker processes."""

    def work(until: float) -> Facts:
        code = (
            "import sys; sys.path[:0] = [sys.argv[1], sys.argv[1] + '/tests/bench']; import bench_loader; "
            "from data.read.shards import Reader\n"
            "for workers in (0, 1, 4):\n"
            "    print(workers, bench_loader.measure(Reader(places=sys.argv[2], batch=64, resolution=64, workers=workers, "
            "text_tokens=16)), flush=True)"
        )
        command = [sys.executable, "-c", code, str(ROOT), str(session.shards)]
        text = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=until - time.monotonic()
        ).stdout
        return {f"{workers} workers": float(rate) for workers, rate in (line.split() for line in text.splitlines())}

    return work


def memory(session: Session) -> Callable[[float], Facts]:
    """Where memory ends: exit codes and last lines."""

    def work(until: float) -> Facts:
        peer = session.peer(
            "memory", kind="memory", shards=str(session.shards), out=str(session.out / "logs" / "memory")
        )
        return session.measured([peer], until, 1)["memory"][0]

    return work


def training(session: Session, overrides: Sequence[str]) -> Callable[[float], Facts]:
    """Trains the base stage of `emoji` until the time is over; its bundle lies beside the results, in pieces."""

    def work(until: float) -> Facts:
        run_dir = session.out / "logs" / "emoji"
        name = "emoji_tiny" if session.quick else "emoji"
        command = [
            sys.executable,
            str(ROOT / "train.py"),
            name,
            "base_16",
            "--data",
            str(session.shards),
            "--out",
            str(run_dir),
        ]
        command += ["--device", session.device, *(f"stages.base_16.{each}" for each in overrides)]
        log = (session.out / "logs" / "training.log").open("w")
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        try:
            process.wait(max(until - time.monotonic() - 12, 3))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
            process.wait(30)
        lines = [json.loads(line) for line in (run_dir / "base_16" / "metrics.jsonl").read_text().splitlines()]
        weights = (run_dir / "base_16" / "bundle" / "ema.safetensors").read_bytes()
        for k in range(0, len(weights), PIECE):
            (session.out / f"ema.safetensors.{k // PIECE}").write_bytes(weights[k : k + PIECE])
        shutil.copy(run_dir / "base_16" / "bundle" / "stage.json", session.out / "stage.json")
        shutil.copy(run_dir / "base_16" / "metrics.jsonl", session.out / "metrics.jsonl")
        grids = sorted((run_dir / "base_16" / "samples").glob("*.png"))
        if grids:
            shutil.copy(grids[-1], session.out / "grid.png")
        keys = ("nimg", "loss", "img_per_s", "wait", "memory_mb", "mfu")
        middle = lines[len(lines) // 2]
        return {"exit": process.returncode, "last": {key: lines[-1].get(key) for key in (*keys, "val_loss")}} | {
            "middle": {key: middle.get(key) for key in keys}
        }

    return work


def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def gpu_name(device: str) -> str:
    import torch

    return torch.cuda.get_device_name() if device == "cuda" else "none"


def report(results: Facts) -> str:
    """The results as Markdown: a table a part, one row for each thing measured."""
    machine = results["machine"]
    text = [f"GPU: {machine['gpu']}; {machine['described']}", ""]
    for part, found in results.items():
        if part == "machine":
            continue
        text += [f"## {part} ({found.get('seconds', '?')} s)", ""]
        for name, each in found.items():
            if name != "seconds":
                told = (
                    ", ".join(f"{key} {shown(value)}" for key, value in each.items())
                    if isinstance(each, dict)
                    else shown(each)
                )
                text.append(f"| {name} | {told} |")
        text.append("")
    return "\n".join(text + ratios(results))


def ratios(results: Facts) -> list[str]:
    """Theirs / ours, where both were measured."""
    rows = []
    parts = (results.get("updates compiled", {}), results.get("updates eager", {}))
    times = {name: each.get("ms") for part in parts for name, each in part.items() if isinstance(each, dict)}
    for task in ("base", "sr"):
        for theirs, ours in (("as its README", "tuned"), ("tuned", "tuned"), ("eager", "eager")):
            a, b = times.get(f"{task} diffusers {theirs}"), times.get(f"{task} ours {ours}")
            if a and b:
                rows.append((f"{task}: diffusers {theirs} / ours {ours}", f"{a / b:.2f}"))
    return [table(("theirs / ours", "ratio"), rows)] if rows else []


def shown(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {shown(each)}" for key, each in value.items()) + "}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def main(
    out: Annotated[Path, typer.Option(help="folder for results.json, results.md and the trained bundle")],
    shards: Annotated[Path, typer.Option(help="emoji, packed at 64 px with text features")],
    device: Annotated[str, typer.Option(help="cuda or cpu")] = "cuda",
    quick: Annotated[bool, typer.Option(help="small networks, few turns: does it run?")] = False,
    seconds: Annotated[float, typer.Option(help="in all")] = 540.0,
    only: Annotated[str, typer.Option(help="parts by commas; empty: all")] = "",
    override: Annotated[list[str] | None, typer.Option(help="of the trained base stage, e.g. train.lr=0.02")] = None,
) -> None:
    """Run every part, most valuable first."""
    if not (shards / "index.json").is_file():
        raise ValueError(f"--shards {shards}: no index.json there; pack some with python -m data.pack")
    session = Session(out.resolve(), device, quick, seconds, shards.resolve())
    chosen = [each.strip() for each in only.split(",")] if only else []
    engines = samplers(session)
    if device == "cuda" and (not chosen or "sampling" in chosen):
        for peer in engines:  # compiling takes a minute or two of some cores, beside everything that is measured before
            peer.start()
    parts: list[tuple[str, float, Callable[[float], Facts]]] = [
        ("updates eager", 75, updates(session, False)),
        ("reference stages eager", 90, reference(session, False)),
        ("updates compiled", 170, updates(session, True)),
        ("sampling", 110, sampling(session, engines)),
        ("ZeRO", 60, curves(session)),
        ("loader", 25, loader(session)),
        ("memory", 50, memory(session)),
        ("reference stages compiled", 120, reference(session, True)),
        ("training", seconds, training(session, override or ())),
    ]
    for name, bound, work in parts:
        if (not chosen or name in chosen) and not (quick and device == "cpu" and name == "memory"):
            session.part(name, bound * (6 if device == "cpu" else 1), work)
    print((out / "results.md").read_text())


if __name__ == "__main__":
    run(main)
