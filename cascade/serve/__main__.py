"""Serve a cascade: previews that sharpen while people watch, on http://127.0.0.1:8000.

    python -m cascade.serve
    python -m cascade.serve --cascade runs/emoji --port 8080 --store pictures/ --keys keys.txt --host 0.0.0.0

Prints one line when it is ready. Exit codes: 0 after SIGTERM, 2 a mistake that you can mend, 130 interrupted.
"""

import ipaddress
import logging
import signal
import sys
import webbrowser
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from data.cli import run

LOOPBACK = ("localhost", "127.0.0.1", "::1")
SHIPPED = Path(__file__).parents[1] / "shipped" / "emoji_tiny"
NEEDED = ("fastapi", "uvicorn", "prometheus_client")


def main(
    cascade: Annotated[Path, typer.Option(help="the --out of train.py", show_default="the one that ships")] = SHIPPED,
    host: Annotated[str, typer.Option(help="address to listen on; beyond loopback --keys is needed")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0: any that is free", min=0, max=65535)] = 8000,
    store: Annotated[Path, typer.Option(help="folder of finished pictures and held stages")] = Path("served"),
    store_mb: Annotated[int, typer.Option(help="the oldest pictures go where these MB do not suffice", min=1)] = 2048,
    free_mb: Annotated[int, typer.Option(help="no new jobs where the disk has fewer MB left", min=0)] = 32,
    keep_h: Annotated[float, typer.Option(help="hours that pictures are kept", min=0.0)] = 168.0,
    keys: Annotated[Path | None, typer.Option(help="file of API keys, lines NAME: KEY")] = None,
    no_keys: Annotated[bool, typer.Option("--no-keys", help="anyone who reaches the address may use it")] = False,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="a name by which a proxy asks, besides the loopback ones; may be repeated")
    ] = None,
    jobs_per_min: Annotated[int, typer.Option(help="jobs a minute of one key", min=1)] = 600,
    open_jobs: Annotated[int, typer.Option(help="jobs of one key at once", min=1)] = 64,
    max_images: Annotated[int, typer.Option(help="images of one job", min=1)] = 64,
    max_steps: Annotated[int, typer.Option(help="sampler steps of a stage", min=1, max=1000)] = 100,
    max_waiting: Annotated[int, typer.Option(help="images that are accepted and not finished", min=1)] = 512,
    body_mb: Annotated[int, typer.Option(help="MB of a request's body", min=1)] = 16,
    abandon_s: Annotated[
        float, typer.Option(help="seconds until a job that nobody watches any more ends", min=0.0)
    ] = 60.0,
    drain_s: Annotated[float, typer.Option(help="seconds that open jobs get after SIGTERM", min=0.0)] = 30.0,
    device: Annotated[str, typer.Option(help="cpu, cuda:0, or several by commas; auto: every GPU, else cpu")] = "auto",
    place: Annotated[list[str] | None, typer.Option(help="a stage elsewhere: sr_256=cuda:1; may be repeated")] = None,
    compile_: Annotated[
        bool | None,
        typer.Option("--compile/--no-compile", help="torch.compile; takes minutes on a CPU", show_default="on GPUs"),
    ] = None,
    precision: Annotated[str, typer.Option(help="fp32 or bf16")] = "fp32",
    download: Annotated[bool, typer.Option("--download", help="let a missing text encoder be fetched")] = False,
    log_prompts: Annotated[bool, typer.Option("--log-prompts", help="write prompts to the log")] = False,
    open_: Annotated[bool, typer.Option("--open", help="open the page in a browser")] = False,
) -> None:
    """Serve a cascade over HTTP, with a page."""
    check_needed(NEEDED, "serve")
    if not is_loopback(host) and keys is None and not no_keys:
        raise ValueError(f"--host {host} is open to others; give --keys FILE, or --no-keys if everyone may use it")

    from .limits import Keys, Limits
    from .server import Server, listen

    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    known = Keys.read(keys) if keys else None
    socket = listen(host, port)

    import torch  # what can be refused without it was

    from cascade import batching
    from cascade.devices import choose_devices, parse_place
    from cascade.engine import Engine
    from cascade.manifest import read_manifest
    from cascade.pipeline import Cascade
    from cascade.request import Request

    from .app import create_app
    from .service import Service
    from .store import Store

    torch.set_flush_denormal(True)
    name = read_manifest(cascade).name
    if precision not in ("fp32", "bf16"):
        raise ValueError(f"--precision {precision}: allowed are fp32 and bf16")
    devices, placed = choose_devices(device), parse_place(place or [])
    model, *replicas = (
        Cascade.load(cascade, device=each, place=placed, precision=precision, download=download) for each in devices
    )
    on_gpu = any(each.startswith("cuda") for each in (*devices, *placed.values()))
    compiles = on_gpu if compile_ is None else compile_
    limits = Limits(
        body_bytes=body_mb << 20,
        bodies_bytes=max(body_mb << 20, 128 << 20),
        images=max_images,
        steps=max_steps,
        open_jobs=open_jobs,
        jobs_per_min=jobs_per_min,
        abandon_s=abandon_s,
        free_bytes=free_mb << 20,
    )
    if model.conditions.text:
        model.conditions.of(Request(prompts=("",)))  # the text encoder is loaded now, not while somebody waits
    disk = Store(store, max_bytes=store_mb << 20, keep_s=keep_h * 3600)
    prepare = batching.compiled if compiles else batching.measured
    engine = Engine(model, *replicas, prepare=prepare, buckets=compiles and on_gpu, max_waiting=max_waiting)
    with engine.start():
        service = Service(engine, disk, name=name, limits=limits, log_prompts=log_prompts)
        address = f"http://{f'[{host}]' if ':' in host else host}:{socket.getsockname()[1]}/"
        hosts = frozenset((*LOOPBACK, host, *(allow_host or ()))) if is_loopback(host) or allow_host else None
        app = create_app(service, keys=known, hosts=hosts)
        server = Server(
            app,
            close=service.close,
            drain_s=drain_s,
            ready=lambda: say(f"cascade {name} at {address}", open_ and address),
        )
        try:
            server.run(sockets=[socket])
        finally:
            service.close()
            disk.close()
    if signal.SIGINT in server.told:
        raise KeyboardInterrupt


def check_needed(packages: tuple[str, ...], extra: str) -> None:
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise ValueError(f"cascade.serve needs {', '.join(missing)}; pip install -e '.[{extra}]'")


def is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def say(line: str, address: str | bool) -> None:
    """The one line on stdout."""
    print(line, flush=True)
    if address:
        webbrowser.open(str(address))


if __name__ == "__main__":
    run(main)
