"""The same server on several machines, by Ray Serve.

    python -m cascade.serve.on_ray --replicas 2 --cpus 1
    python -m cascade.serve.on_ray --replicas 8 --gpus 1 --address auto --cascade /shared/emoji --store /shared/served

This process has the socket, the keys and the limits of bodies and connections (`front`). Each replica, wherever Ray puts it, is the
rest of a server (`replica`). A replica that dies is started again by Ray; its jobs that ran have failed, its stored pictures are
there if its store is on a disk that all machines see.
"""

import logging
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from data.cli import run

from .__main__ import LOOPBACK, NEEDED, SHIPPED, check_needed, is_loopback


def deploy(replicas: int, options: dict[str, Any], *, cpus: float, gpus: float) -> list[Any]:
    """A handle of each replica, when it is ready. Each is an application of its own, so that a job can be sent where it is."""
    from ray import serve

    from .replica import Replica

    actor = {"num_cpus": cpus, "num_gpus": gpus}
    made = serve.deployment(num_replicas=1, max_ongoing_requests=1000, ray_actor_options=actor)(Replica)
    targets = [
        serve.RunTarget(target=made.bind(number, **options), name=f"cascade-{number}", route_prefix=None)
        for number in range(replicas)
    ]
    return serve.run_many(targets)


def main(
    cascade: Annotated[
        Path, typer.Option(help="the --out of train.py, where every machine sees it", show_default="the one that ships")
    ] = SHIPPED,
    replicas: Annotated[int, typer.Option(help="engines", min=1, max=1000)] = 1,
    cpus: Annotated[float, typer.Option(help="cores of each", min=0.0)] = 1.0,
    gpus: Annotated[float, typer.Option(help="GPUs of each", min=0.0)] = 0.0,
    address: Annotated[
        str, typer.Option(help="of the Ray cluster, auto: the one here", show_default="a Ray of its own")
    ] = "",
    host: Annotated[str, typer.Option(help="address to listen on; beyond loopback --keys is needed")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0: any that is free", min=0, max=65535)] = 8000,
    store: Annotated[Path, typer.Option(help="folder of pictures, a folder in it for each replica")] = Path("served"),
    keys: Annotated[Path | None, typer.Option(help="file of API keys, lines NAME: KEY")] = None,
    no_keys: Annotated[bool, typer.Option("--no-keys", help="anyone who reaches the address may use it")] = False,
    max_waiting: Annotated[int, typer.Option(help="images that a replica accepts and has not finished", min=1)] = 512,
    drain_s: Annotated[float, typer.Option(help="seconds that open jobs get after SIGTERM", min=0.0)] = 30.0,
    precision: Annotated[str, typer.Option(help="fp32 or bf16")] = "fp32",
) -> None:
    """Serve a cascade from several processes or machines, on Ray Serve."""
    check_needed((*NEEDED, "ray"), "serve,ray")
    if not is_loopback(host) and keys is None and not no_keys:
        raise ValueError(f"--host {host} is open to others; give --keys FILE, or --no-keys if everyone may use it")
    if precision not in ("fp32", "bf16"):
        raise ValueError(f"--precision {precision}: allowed are fp32 and bf16")
    from cascade.manifest import read_manifest

    from .front import Front
    from .guard import Guard
    from .limits import Keys, Limits
    from .metrics import Metrics
    from .server import Server, listen

    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    known = Keys.read(keys) if keys else None
    name = read_manifest(cascade).name
    socket = listen(host, port)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray
    from ray import serve

    own: dict[str, Any] = {}
    if not address:
        own = {"num_cpus": max(os.cpu_count() or 1, int(replicas * cpus) + 1), "include_dashboard": False}
    ray.init(address=address or "local", log_to_driver=False, **own)
    try:
        serve.start(proxy_location="Disabled")
        options = {
            "cascade": str(cascade.resolve()), "store": str(store.resolve()), "precision": precision,
            "max_waiting": max_waiting,
        }  # fmt: skip
        handles = deploy(replicas, options, cpus=cpus, gpus=gpus)
        metrics = Metrics(None)
        hosts = frozenset((*LOOPBACK, host)) if is_loopback(host) else None
        app = Guard(Front(handles, metrics), Limits(), metrics, keys=known, hosts=hosts)
        line = f"cascade {name} on {replicas} replicas at http://{host}:{socket.getsockname()[1]}/"
        server = Server(app, close=closing(handles), drain_s=drain_s, ready=lambda: print(line, flush=True))
        server.run(sockets=[socket])
    finally:
        with suppress(Exception):
            serve.shutdown()
        ray.shutdown()
    if signal.SIGINT in server.told:
        raise KeyboardInterrupt


def closing(handles: list[Any]) -> Callable[[float], None]:
    """Tells every replica to drain, and waits."""

    def close(drain_s: float) -> None:
        for answer in [handle.close.remote(drain_s) for handle in handles]:
            with suppress(Exception):  # one that is lost has nothing to drain
                answer.result(timeout_s=drain_s + 10)

    return close


if __name__ == "__main__":
    run(main)
