"""What gpu.py measures, each in a process of its own: `python gpu_jobs.py JSON` prepares (builds, compiles, warms up), answers
"ready", and then each line of its input with a line of JSON. So everything is prepared side by side and timed alone.

A job is one of: `update` (a network of bench_update.py), `stage` (a training update of a reference stage), `engine` (the sampling
engine and its clients), `memory` (what happens where memory ends).
"""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]
Job = dict[str, Any]
Ask = Callable[[], dict[str, Any]]


def update(job: Job, device: str) -> Ask:
    """One training update of ours or of diffusers' network; its milliseconds."""
    from contenders import GPU_TASKS, TASKS, Setting, make_update

    task = next(task for task in (TASKS if job["quick"] else GPU_TASKS) if task.name == job["task"])
    task = (
        replace(task, batch=2, widths=task.widths[:2], blocks=task.blocks[:2], attention=()) if job["quick"] else task
    )
    one = make_update(job["peer"], task, Setting(**job["setting"]), device)
    for _ in range(3):
        one()
    return lambda: timed(one, device)


def stage(job: Job, device: str) -> Ask:
    """One training update of a reference stage at its micro-batch; its milliseconds."""
    from cascade.config import load_config, stage_of
    from cascade.train.costs import random_batch
    from stages.build import build_stage
    from stages.tools.cost import cost_of
    from stages.training.engine import LocalEngine

    config = stage_of(load_config(job["cascade"]), job["stage"])
    plan = cost_of(config)
    with torch.device(device):
        built = build_stage(config)
    built.set_precision(config.train.precision)
    built.net.checkpointed = config.train.checkpoint_activations
    if job["compiled"]:
        built.net.compile(dynamic=False)
    engine = LocalEngine(built, config.train, torch.device(device))
    micro = 2 if job["quick"] else plan.micro_batch
    batch = random_batch(config, micro).to(torch.device(device))
    for _ in range(2):
        engine.update([batch], config.train.lr)
    facts = {"micro_batch": micro, "train_flops": plan.train_flops}
    planned = {"planned_gb": (plan.train_bytes - plan.ema_bytes) / 1e9}
    return lambda: timed(lambda: engine.update([batch], config.train.lr), device) | facts | planned


def timed(one: Callable[[], object], device: str) -> dict[str, float]:
    """Milliseconds of a call that reads its loss, so waits for the device; the most memory so far."""
    began = time.perf_counter()
    one()
    spent = 1000 * (time.perf_counter() - began)
    return {"ms": spent} | ({"peak_gb": torch.cuda.max_memory_allocated() / 1e9} if device == "cuda" else {})


def engine(job: Job, device: str) -> Ask:
    """Pictures a second from the engine, one client and 16, and seconds to the first preview; the networks' rates by rows."""
    from cascade.engine.batching import compiled, measured
    from cascade.engine.batching import timed as call_times
    from cascade.engine.engine import Engine

    cascade = random_cascade(job["cascade"], device, job["precision"])
    mode = job["mode"]

    def prepare(hosts):
        if mode == "compiled":
            for host in hosts:
                host.stage.net.compile(dynamic=True)
        return compiled(hosts) if mode == "CUDA graphs" else measured(hosts)

    running = Engine(cascade, prepare=prepare, buckets=mode == "CUDA graphs").start()

    def ask() -> dict[str, Any]:
        seconds = 6.0 if job["quick"] else 4.0
        found: dict[str, Any] = {"batch": {name: stats.batch for name, stats in running.stats.items()}}
        if mode != "CUDA graphs":  # a graph belongs to the thread that captured it
            found["rows"] = {
                host.name: {rows: rows / spent for rows, spent in call_times(host)} for host in cascade.hosts
            }
        for clients in (1, 16):
            done, first = load(running, clients, seconds)
            found[f"img_per_s_{clients}"] = done / seconds
            found[f"first_preview_s_{clients}"] = median(first) if first else None
        return found

    return ask


def random_cascade(name: str, device: str, precision: str):
    """A shipped cascade's networks with random weights."""
    from cascade.config import load_config
    from cascade.engine.host import own_host
    from cascade.link import Link
    from cascade.pipeline import Cascade
    from stages.build import build_stage
    from tests.cascade.chains import random_weights, sidecar

    links = []
    for stage_name, config in load_config(name).stages.items():
        with torch.device(device):
            stage = build_stage(config)
        stage.load_state_dict(random_weights(config))
        stage.set_precision(precision)
        record = sidecar(config, text_encoder="none" if config.cond.text else None)
        links.append(
            Link(name=stage_name, hosts=own_host(stage_name, stage.eval()), sidecar=record, settings=config.sample)
        )
    return Cascade(links, device=device, precision=precision)


def load(running, clients: int, seconds: float) -> tuple[int, list[float]]:
    """Pictures finished in so many seconds by clients who ask for one at a time, and how long each waited for its first preview."""
    from cascade.events import Cancelled, Failed, Finished, Preview
    from cascade.request import Request

    until = time.perf_counter() + seconds
    done: list[int] = []
    first: list[float] = []

    def client(seed: int) -> None:
        while (began := time.perf_counter()) < until:
            ended, seen = threading.Event(), []

            def listen(event, ended=ended, seen=seen, began=began):
                if isinstance(event, Preview) and not seen:
                    seen.append(time.perf_counter() - began)
                if isinstance(event, Failed):
                    raise RuntimeError(event.message)
                if isinstance(event, Finished | Cancelled):
                    ended.set()

            running.submit(Request(num=1, seed=seed), listen)
            if ended.wait(60) and time.perf_counter() < until:
                done.append(seed)
                first.extend(seen)
            seed += clients

    threads = [threading.Thread(target=client, args=(k,)) for k in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(done), first


def memory(job: Job, device: str) -> Ask:
    """Three ways to run out of memory, on a GPU that is told to have less: training and measuring end with exit code 3 and one
    line, the engine halves its batch and finishes."""
    limited = f"import torch; torch.cuda.set_per_process_memory_fraction({{}}); import sys; sys.path.insert(0, {str(ROOT)!r}); "
    measure = (
        "from data.cli import run; from train import main; sys.argv = ['train.py', 'imagenet_256', 'base_32', '--dry-run', "
        "'--measure', '--device', 'cuda']; run(main)"
    )
    training = (
        "from data.cli import run; from train import main; "
        f"sys.argv = ['train.py', 'emoji', 'base_16', '--data', {job['shards']!r}, '--out', {job['out']!r}, "
        "'stages.base_16.train.batch=4096', 'stages.base_16.train.compile=false']; run(main)"
    )
    sampling = (
        "import logging; logging.basicConfig(); sys.path.insert(0, 'tests/bench'); from gpu_jobs import random_cascade; "
        "from cascade.engine.engine import Engine; "
        "from cascade.request import Request; from cascade.events import Failed, Finished; seen = []; "
        "engine = Engine(random_cascade('emoji', 'cuda', 'bf16'), batch={'base_16': 128, 'sr_64': 128, 'sr_128': 128}, "
        "max_running=64); engine.submit(Request(num=64, batch=64), seen.append); "
        "[engine.tick() for _ in iter(lambda: isinstance(seen[-1] if seen else None, (Finished, Failed)), True)]; "
        "print(type(seen[-1]).__name__, {name: stats.batch for name, stats in engine.stats.items()})"
    )

    def ask() -> dict[str, Any]:
        found = {}
        codes = {"measure": (0.05, measure), "training": (0.05, training), "sampling": (0.01, sampling)}
        running = {
            name: subprocess.Popen(
                [sys.executable, "-c", limited.format(share) + code],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                cwd=ROOT,
            )
            for name, (share, code) in codes.items()
        }
        for name, process in running.items():
            text = process.communicate(timeout=100)[0].strip().splitlines()
            found[name] = {"exit": process.returncode, "last": text[-1][:400] if text else "", "lines": len(text)}
        return found

    return ask


JOBS: dict[str, Callable[[Job, str], Ask]] = {"update": update, "stage": stage, "engine": engine, "memory": memory}


if __name__ == "__main__":
    job = json.loads(sys.argv[1])
    torch.set_flush_denormal(True)
    ask = JOBS[job["kind"]](job, job["device"])
    print("ready", flush=True)
    for _ in sys.stdin:
        print(json.dumps(ask()), flush=True)
