"""Serves a cascade over HTTP with a web page and live previews, by default on http://127.0.0.1:8000.

    python -m cascade.serve
    python -m cascade.serve --cascade runs/emoji --port 8080 --store pictures/ --keys keys.txt --host 0.0.0.0

Prints one line to stdout when it is ready. Exit codes: 0 after SIGTERM (also during start-up), 1 if shutdown hung, 2 for a
mistake that the user can fix, 130 if interrupted.
"""

import logging
import signal
import warnings
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from data.cli import run
from data.line import say

from . import options
from .http import early
from .options import SHIPPED

log = logging.getLogger("cascade.serve")


def main(
    cascade: Annotated[Path, typer.Option(help="the --out of train.py", show_default="the one that ships")] = SHIPPED,
    host: options.Host = "127.0.0.1",
    port: options.Port = 8000,
    store: Annotated[Path, typer.Option(help="folder of finished pictures and held stages")] = Path("served"),
    store_mb: options.StoreMB = 2048,
    free_mb: options.FreeMB = 32,
    keep_h: options.KeepH = 168.0,
    keys: options.KeysFile = None,
    no_keys: options.NoKeys = False,
    allow_host: options.AllowHost = None,
    allow_origin: options.AllowOrigin = None,
    root_path: options.RootPath = "",
    trust_proxy: options.TrustProxy = None,
    jobs_per_min: options.JobsPerMin = 600,
    open_jobs: options.OpenJobs = 64,
    max_images: options.MaxImages = 64,
    max_steps: options.MaxSteps = 100,
    max_waiting: options.MaxWaiting = 512,
    body_mb: options.BodyMB = 16,
    abandon_s: options.AbandonS = 60.0,
    connections: options.Connections = None,
    address_connections: options.AddressConnections = 256,
    drain_s: options.DrainS = 15.0,
    device: Annotated[str, typer.Option(help="cpu, cuda:0, or several by commas; auto: every GPU, else cpu")] = "auto",
    place: Annotated[list[str] | None, typer.Option(help="a stage elsewhere: sr_256=cuda:1; may be repeated")] = None,
    compile_: options.Compile = None,
    precision: options.Precision = "fp32",
    download: options.Download = False,
    log_prompts: options.LogPrompts = False,
    log_json: options.LogJson = False,
    open_: Annotated[bool, typer.Option("--open", help="open the page in a browser")] = False,
) -> None:
    """Serve a cascade over HTTP, with a page."""
    options.check_needed(options.NEEDED, "serve")
    options.check_open(host, keys, no_keys)
    options.check_precision(precision)

    from .http import logs
    from .http.connections import listen
    from .http.keys import Keys
    from .http.server import END_S, Server, end_within, starting

    warnings.filterwarnings("ignore", module=r"PIL\.")  # PIL's warnings about clients' pictures stay out of the log
    logs.start(as_json=log_json)
    api_keys = Keys.read(keys) if keys else None
    hosts, origins = options.hosts_of(host, allow_host), options.origins_of(allow_origin)
    root, proxies = options.root_of(root_path), options.proxies_of(trust_proxy)
    limits = options.limits_of(
        body_mb=body_mb, max_images=max_images, max_steps=max_steps, open_jobs=open_jobs, jobs_per_min=jobs_per_min,
        abandon_s=abandon_s, free_mb=free_mb, max_waiting=max_waiting,
        connections=connections, address_connections=address_connections,
    )  # fmt: skip
    socket = listen(host, port)

    with starting(socket):
        import torch  # imported late: what can be refused without it has been

        from cascade.engine.batching import preparing
        from cascade.engine.devices import choose_devices, parse_place
        from cascade.engine.engine import Engine
        from cascade.manifest import read_manifest
        from cascade.pipeline import Cascade

        from .api.app import create_app
        from .api.service import Service
        from .jobs.store import Store

        torch.set_flush_denormal(True)
        name = read_manifest(cascade).name
        devices, placed = choose_devices(device), parse_place(place or [])
        model, *replicas = (
            Cascade.load(cascade, device=target, place=placed, precision=precision, download=download)
            for target in devices
        )
        on_gpu = any(target.startswith("cuda") for target in (*devices, *placed.values()))
        if model.conditions.text:
            model.conditions.of(prompts=("",))  # load the text encoder now, not during the first request
        disk = Store(store, max_bytes=store_mb << 20, spare_bytes=limits.free_bytes, keep_s=keep_h * 3600)
        prepare, buckets = preparing(compile_, on_gpu=on_gpu)
        log.info("%s on %s: measuring how many images a call should have", name, ", ".join(devices))
        engine = Engine(model, *replicas, prepare=prepare, buckets=buckets, max_waiting=max_waiting)
        replicas.clear()  # the engine keeps one copy of a stage that --place gives to all of them
        engine.start()
    with engine:
        service = Service(engine, disk, name=name, limits=limits, log_prompts=log_prompts)
        address = f"http://{f'[{host}]' if ':' in host else host}:{socket.getsockname()[1]}/"
        app = create_app(service, keys=api_keys, hosts=hosts, origins=origins, root_path=root)

        def close(drain_s: float) -> None:
            end_within(drain_s + END_S)
            service.close(drain_s)

        def ready() -> None:
            early.begun()
            announce(f"cascade {name} at {address}", open_ and address)

        server = Server(app, close=close, drain_s=drain_s, ready=ready, proxies=proxies, limits=limits)
        try:
            server.run(sockets=[socket])
        except BaseException:
            end_within(END_S)
            raise
        finally:
            service.close()
            disk.close()
    if signal.SIGINT in server.told:
        raise KeyboardInterrupt
    early.end(0)


def announce(line: str, address: str | bool) -> None:
    """Say the ready line and, if given an address, open it in a browser."""
    say(line)
    if address:
        webbrowser.open(str(address))


if __name__ == "__main__":
    early.end_at_once()
    run(main)
