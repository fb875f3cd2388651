"""Serves a cascade from several processes or machines with Ray Serve.

    python -m cascade.serve.on_ray --replicas 2 --cpus 1
    python -m cascade.serve.on_ray --replicas 8 --gpus 1 --address auto --cascade /shared/emoji --store /shared/served
    python -m cascade.serve.on_ray --stage base_64=1 --stage sr_256=2 --stage sr_1024=5 --gpus 1 --address auto
    python -m cascade.serve.on_ray --stage base_64=2 --stage base_64.guide=1 --gpus 1 --address auto

This process has the socket, the keys and the limits of bodies and connections (`ray.front`). Each replica, on whatever
machine Ray starts it, is the rest of a server (`ray.replica`); networks of single stages can be replicas of their own,
which the engines of all servers share (`ray.stage_replica`). Ray restarts a replica that has died or is unhealthy. The
running jobs of a server that has died are failed; its stored pictures remain if the store is on a disk that all machines
see. A stage's network that has died fails no job: its calls are made again. The applications have names of their own and
end with this process (`ray.lease`); others on the cluster go on.
"""

import logging
import os
import re
import secrets
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from data.cli import run
from data.errors import RunError
from data.line import say

from . import options
from .http import early
from .options import SHIPPED

log = logging.getLogger("cascade.serve")
APPLICATION_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,59}")
HEALTH_EVERY_S = 5.0  # a replica that fails three checks is restarted
CLOSING_S = 4.0  # for all replicas, after the time that their jobs have
ENDING_S = 5.0  # for a replica, after its jobs have ended


def deploy(
    apps: Mapping[str, tuple[type, tuple, dict[str, Any], int]],
    *,
    cpus: float,
    gpus: float,
    health_s: float = HEALTH_EVERY_S,
) -> list[Any]:
    """Deploy applications and return a handle of each when all are ready. apps: by name (class, arguments, keyword
    arguments, number of replicas). Raises ValueError or RunError, in one line, with what a replica raised when it started."""
    from ray import serve

    actor = {"num_cpus": cpus, "num_gpus": gpus}
    targets = []
    for name, (kind, args, kwargs, num) in apps.items():
        deployment = serve.deployment(
            num_replicas=num,
            max_ongoing_requests=1000,
            ray_actor_options=actor,
            health_check_period_s=health_s,
            graceful_shutdown_timeout_s=ENDING_S,
            graceful_shutdown_wait_loop_s=0.5,
        )(kind)
        targets.append(serve.RunTarget(target=deployment.bind(*args, **kwargs), name=name, route_prefix=None))
    try:
        return serve.run_many(targets) if targets else []
    except RuntimeError as error:
        raise reason(list(apps), str(error)) from None


def reason(names: list[str], said: str) -> Exception:
    """Why applications do not start: the exception of a replica, which Serve reports as text."""
    from ray import serve

    applications = serve.status().applications
    messages = "\n".join(
        deployment.message
        for name in names
        if name in applications
        for deployment in applications[name].deployments.values()
    )
    errors = re.findall(r"^(?:\w+\.)*(\w+(?:Error|Exception)): (.+)$", messages, re.MULTILINE)
    if not errors:
        return RunError(said)
    kind, message = errors[-1]
    return ValueError(message) if kind == "ValueError" else RunError(f"{kind}: {message}")


def names_of(name: str, replicas: int, stages: Mapping[str, int]) -> tuple[list[str], list[str]]:
    """Names of the applications: those of the servers, those of the stages."""
    return [f"{name}-{k}" for k in range(replicas)], [f"{name}-stage-{stage}" for stage in stages]


def deploy_all(
    name: str, replicas: int, stages: dict[str, int], settings: dict[str, Any], *, cpus: float, gpus: float, own: bool
) -> list[Any]:
    """Deploy stages and servers and return a handle of each server. Each is an application of its own, so that a job can be
    sent to the server where it lives. own: servers have networks of their own, too."""
    from .ray.replica import Replica
    from .ray.stage_replica import StageReplica

    servers, networks = names_of(name, replicas, stages)
    common = {name: settings[name] for name in ("cascade", "precision", "compile_", "lease")}
    by_app = zip(networks, stages.items(), strict=True)
    stage_apps = {app: (StageReplica, (stage,), common, num) for app, (stage, num) in by_app}
    handles = dict(zip(stages, deploy(stage_apps, cpus=cpus, gpus=gpus), strict=True))
    rows = {stage: handle.rows.remote().result() for stage, handle in handles.items()}
    shared = {stage: (handle, stages[stage]) for stage, handle in handles.items()}
    apps = {app: (Replica, (k, shared), settings | {"rows": rows}, 1) for k, app in enumerate(servers)}
    return deploy(apps, cpus=cpus, gpus=gpus if own else 0)


def chosen_name(said: str, cascade: str) -> str:
    """The name that was given, or, for "", the cascade's with a random suffix. Raises ValueError."""
    if not said:
        return f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', cascade)[:40].strip('-') or 'cascade'}-{secrets.token_hex(4)}"
    if not APPLICATION_NAME.fullmatch(said):
        raise ValueError(f"--name {said!r}: take up to 60 letters, digits, '_', '.' and '-', a letter or digit first")
    return said


def parse_stages(said: list[str], names: list[str]) -> dict[str, int]:
    """["sr_64=4"] as {"sr_64": 4}. names: of the cascade's networks, as --place has them: "base_16", "base_16.guide". Raises
    ValueError, also for one that the cascade lacks."""
    counts = {}
    for text in said:
        name, _, num = text.partition("=")
        if not (num.isascii() and num.isdecimal() and 0 < int(num) <= 1000):
            raise ValueError(
                f"--stage {text}: write STAGE=REPLICAS with 1 to 1000 replicas, for instance {names[-1]}=4"
            )
        if name not in names:
            raise ValueError(f"--stage {text}: no stage {name!r}, the cascade has {', '.join(names)}")
        if name in counts:
            raise ValueError(f"--stage {text}: {name} was named before; once is enough")
        counts[name] = int(num)
    return counts


def check_resources(servers: int, networks: int, *, cpus: float, gpus: float, own: bool, local: bool) -> None:
    """Check that there are enough CPUs and GPUs. Raises ValueError if this machine has too few; on a cluster, which may
    grow, only logs it."""
    import ray

    required = {"CPU": (servers + networks) * cpus, "GPU": (servers * own + networks) * gpus}
    available = ray.cluster_resources() if local else ray.available_resources()
    for kind, num in required.items():
        if num > available.get(kind, 0):
            text = f"--{kind.lower()}s: {num:g} {kind}s are needed in all, there are {available.get(kind, 0):g}"
            if local:
                raise ValueError(f"{text}; take fewer")
            log.warning("%s free now; waiting for more", text)


def connect(address: str, here: dict[str, Any]) -> None:
    """Connect to a Ray cluster, or start a Ray with the options `here` if there is no address. Raises OSError for a wrong
    address, RunError if Ray does not start."""
    import ray

    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address or "local", log_to_driver=False, **here)
    except (ValueError, OSError):
        raise
    except SystemExit:  # from Ray's own handler of SIGTERM, while it starts
        early.told(signal.SIGTERM)
    except Exception as error:  # Ray raises many types; on a busy machine its processes miss its 15 s to start
        raise RunError(f"Ray does not start: {error}") from None
    finally:
        signal.signal(signal.SIGTERM, handler)  # Ray's own raises SystemExit, wherever that surfaces


def main(
    cascade: Annotated[
        Path, typer.Option(help="the --out of train.py, where every machine sees it", show_default="the one that ships")
    ] = SHIPPED,
    replicas: Annotated[int, typer.Option(help="servers: engines with stores", min=1, max=1000)] = 1,
    stage: Annotated[
        list[str] | None,
        typer.Option(help="STAGE=N, or STAGE.guide=N: N such networks, shared by all servers; may be repeated"),
    ] = None,
    cpus: Annotated[float, typer.Option(help="cores of each server and each stage", min=0.0)] = 1.0,
    gpus: Annotated[float, typer.Option(help="GPUs of each that has a network", min=0.0)] = 0.0,
    address: Annotated[
        str, typer.Option(help="of the Ray cluster, auto: the one here", show_default="a Ray of its own")
    ] = "",
    name: Annotated[
        str,
        typer.Option(help="of its applications on the cluster", show_default="the cascade's and a part of its own"),
    ] = "",
    host: options.Host = "127.0.0.1",
    port: options.Port = 8000,
    store: Annotated[Path, typer.Option(help="folder of pictures, a folder in it for each server")] = Path("served"),
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
    compile_: options.Compile = None,
    precision: options.Precision = "fp32",
    download: options.Download = False,
    log_prompts: options.LogPrompts = False,
    log_json: options.LogJson = False,
) -> None:
    """Serve a cascade from several processes or machines, on Ray Serve. Limits of jobs, images and the store are those of each
    server."""
    options.check_needed((*options.NEEDED, "ray"), "serve", "ray")
    options.check_open(host, keys, no_keys)
    options.check_precision(precision)
    from cascade.manifest import read_manifest

    from .http import logs
    from .http.connections import listen
    from .http.guard import Guard
    from .http.keys import Keys
    from .http.metrics import HttpMetrics
    from .http.server import END_S, Server, end_within, starting
    from .ray.front import Front
    from .ray.lease import Lease, take

    logs.start(as_json=log_json)
    api_keys = Keys.read(keys) if keys else None
    hosts, origins = options.hosts_of(host, allow_host), options.origins_of(allow_origin)
    root, proxies = options.root_of(root_path), options.proxies_of(trust_proxy)
    manifest = read_manifest(cascade)
    hosts_there = list(manifest.bundles)
    stages = parse_stages(stage or [], hosts_there)
    name = chosen_name(name, manifest.name)
    limits = options.limits_of(
        body_mb=body_mb, max_images=max_images, max_steps=max_steps, open_jobs=open_jobs, jobs_per_min=jobs_per_min,
        abandon_s=abandon_s, free_mb=free_mb, max_waiting=max_waiting,
        connections=connections, address_connections=address_connections,
    )  # fmt: skip
    socket = listen(host, port)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # under `uv run` Ray would by default start each worker with uv, in a copy of this folder
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    ray_options: dict[str, Any] = {}
    if not address:
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # the default of a new Ray, which would warn about it
        needed = int((replicas + sum(stages.values())) * cpus) + 1
        ray_options = {"num_cpus": max(os.cpu_count() or 1, needed), "include_dashboard": False}
    import ray
    from ray import serve

    lease: Lease | None = None
    logging.getLogger("ray.serve").setLevel(logging.WARNING)  # each deployment warns that options are not applied again
    try:
        connect(address, ray_options)
        own = len(stages) < len(hosts_there)
        check_resources(replicas, sum(stages.values()), cpus=cpus, gpus=gpus, own=own, local=not address)
        servers, networks = names_of(name, replicas, stages)
        lease = take(name, (*servers, *networks))
        serve.start(proxy_location="Disabled")
        settings = {
            "lease": lease,
            "cascade": str(cascade.resolve()), "store": str(store.resolve()), "limits": limits, "store_mb": store_mb,
            "keep_h": keep_h, "max_waiting": max_waiting, "precision": precision, "compile_": compile_,
            "download": download, "log_prompts": log_prompts, "log_json": log_json,
        }  # fmt: skip
        log.info("starting %d servers and %d networks of stages as %s", replicas, sum(stages.values()), name)
        with starting(socket):
            handles = deploy_all(name, replicas, stages, settings, cpus=cpus, gpus=gpus, own=own)
        metrics = HttpMetrics()
        front = Front(handles, metrics, stall_s=limits.stall_s)
        app = Guard(front, limits, metrics, keys=api_keys, hosts=hosts, origins=origins, root_path=root)
        line = f"cascade {manifest.name} on {replicas} replicas at http://{host}:{socket.getsockname()[1]}/"
        drain = closing(handles)

        def close(drain_s: float) -> None:
            end_within(drain_s + END_S + ENDING_S)
            drain(drain_s)

        def ready() -> None:
            early.begun()
            say(line)

        server = Server(app, close=close, drain_s=drain_s, ready=ready, proxies=proxies, limits=limits)
        try:
            server.run(sockets=[socket])
        except BaseException:
            end_within(END_S + ENDING_S)
            raise
    finally:
        if lease is not None:
            with suppress(Exception):
                lease.end(wait=True)
        ray.shutdown()
        socket.close()
    if signal.SIGINT in server.told:
        raise KeyboardInterrupt


def closing(handles: list[Any]) -> Callable[[float], None]:
    """A function that lets all replicas drain and waits for them together."""

    def close(drain_s: float) -> None:
        deadline = time.monotonic() + drain_s + CLOSING_S
        for answer in [handle.close.remote(drain_s) for handle in handles]:
            with suppress(Exception):  # a lost replica has nothing to drain
                answer.result(timeout_s=max(0.0, deadline - time.monotonic()))

    return close


if __name__ == "__main__":
    early.end_at_once()
    run(main)
