"""Command-line options shared by `python -m cascade.serve` and `python -m cascade.serve.on_ray`."""

import ipaddress
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from .http import descriptors
from .http.addresses import plain_network
from .http.limits import Limits
from .http.origins import Origin, authority_of, origin_of
from .http.paths import PATHS, path_of

LOOPBACK = ("localhost", "127.0.0.1", "::1")
SHIPPED = Path(__file__).parents[1] / "shipped" / "emoji_styles"
NEEDED = ("fastapi", "starlette", "uvicorn", "h11", "prometheus_client")

Host = Annotated[str, typer.Option(help="address to listen on; beyond loopback --keys is needed")]
Port = Annotated[int, typer.Option(help="0: any that is free", min=0, max=65535)]
StoreMB = Annotated[int, typer.Option(help="the oldest pictures go where these MB do not suffice", min=1)]
FreeMB = Annotated[int, typer.Option(help="no new jobs where the disk has fewer MB left", min=0)]
KeepH = Annotated[float, typer.Option(help="hours that pictures are kept", min=0.0)]
KeysFile = Annotated[
    Path | None,
    typer.Option("--keys", help="file of API keys, lines NAME: KEY, perhaps with limits; read again when it changes"),
]
NoKeys = Annotated[bool, typer.Option("--no-keys", help="anyone who reaches the address may use it")]
AllowHost = Annotated[
    list[str] | None, typer.Option(help="a name by which a proxy asks, besides the loopback ones; may be repeated")
]
AllowOrigin = Annotated[
    list[str] | None,
    typer.Option(help="an address of the page that a proxy hides: https://pictures.example:8443; may be repeated"),
]
RootPath = Annotated[str, typer.Option(help="where a proxy has the server, for instance /cascade", show_default="/")]
TrustProxy = Annotated[
    list[str] | None,
    typer.Option(help="address of a proxy whose X-Forwarded-For and -Proto are believed; may be repeated"),
]
JobsPerMin = Annotated[int, typer.Option(help="jobs a minute of one key", min=1)]
OpenJobs = Annotated[int, typer.Option(help="jobs of one key at once", min=1)]
MaxImages = Annotated[int, typer.Option(help="images of one job", min=1)]
MaxSteps = Annotated[int, typer.Option(help="sampler steps of a stage", min=1, max=1000)]
MaxWaiting = Annotated[int, typer.Option(help="images that are accepted and not finished", min=1)]
BodyMB = Annotated[int, typer.Option(help="MB of a request's body", min=1)]
AbandonS = Annotated[float, typer.Option(help="seconds until a job that nobody watches any more ends", min=0.0)]
Connections = Annotated[
    int | None,
    typer.Option(help="connections at once", min=16, show_default="1000, or what the limit of open files allows"),
]
AddressConnections = Annotated[int, typer.Option(help="connections of one client address at once", min=1)]
DrainS = Annotated[float, typer.Option(help="seconds that open jobs get after SIGTERM", min=0.0)]
Compile = Annotated[
    bool | None,
    typer.Option("--compile/--no-compile", help="torch.compile; takes minutes on a CPU", show_default="on GPUs"),
]
Precision = Annotated[str, typer.Option(help="fp32 or bf16")]
Download = Annotated[bool, typer.Option("--download", help="let a missing text encoder be fetched")]
LogPrompts = Annotated[bool, typer.Option("--log-prompts", help="write prompts to the log")]
LogJson = Annotated[bool, typer.Option("--log-json", help="the log as JSON, an object a line")]


def check_needed(packages: tuple[str, ...], *extras: str) -> None:
    """Raise ValueError, naming both ways to install them, if packages of these extras are missing."""
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise ValueError(
            f"cascade.serve needs {', '.join(missing)}; uv sync --inexact {' '.join(f'--extra {extra}' for extra in extras)}, "
            f"or pip install -e '.[{','.join(extras)}]'"
        )


def check_open(host: str, keys: Path | None, no_keys: bool) -> None:
    """Raise ValueError if other machines could reach the server without a key and --no-keys is not given."""
    if not is_loopback(host) and keys is None and not no_keys:
        raise ValueError(f"--host {host} is open to others; give --keys FILE, or --no-keys if everyone may use it")


def check_precision(precision: str) -> None:
    """Raise ValueError unless the precision is fp32 or bf16."""
    if precision not in ("fp32", "bf16"):
        raise ValueError(f"--precision {precision}: allowed are fp32 and bf16")


def is_loopback(host: str) -> bool:
    """Whether `host` is localhost or a loopback address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def hosts_of(host: str, allowed: list[str] | None) -> frozenset[str] | None:
    """Names that clients may send in the Host header; None allows any. Raises ValueError."""
    names = []
    for text in allowed or ():
        authority = authority_of(text) or authority_of(f"[{text}]")
        if authority is None:
            raise ValueError(f"--allow-host {text!r} is no name of a host")
        names.append(authority.name)
    return frozenset((*LOOPBACK, host, *names)) if is_loopback(host) or allowed else None


def origins_of(allowed: list[str] | None) -> frozenset[Origin]:
    """Origins of pages that may send state-changing requests, besides the server's own. Raises ValueError."""
    origins = {text: origin_of(text.removesuffix("/")) for text in allowed or ()}
    for text, origin in origins.items():
        if origin is None:
            raise ValueError(
                f"--allow-origin {text!r}: write scheme, host and port, like https://pictures.example:8443"
            )
    return frozenset(filter(None, origins.values()))


def root_of(root_path: str) -> str:
    """Normalize --root-path: "cascade/" becomes "/cascade", "/" becomes "". Raises ValueError for a malformed path and for
    one that could be mistaken for a path of the API."""
    root = "/" + root_path.strip("/") if root_path.strip("/") else ""
    if not re.fullmatch(r"(/[A-Za-z0-9_~-][A-Za-z0-9_.~-]*)*", root):
        raise ValueError(f"--root-path {root_path!r}: write the path of the page's address, for instance /cascade")
    if root and (path_of(root) != "-" or any(path.startswith(f"{root}/") for path in PATHS)):
        raise ValueError(
            f"--root-path {root_path!r} is a path of the API itself; choose another, for instance /cascade"
        )
    return root


def proxies_of(trusted: list[str] | None) -> list[str]:
    """Trusted proxies, as addresses or networks like 10.0.0.0/8. Raises ValueError."""
    proxies = []
    for text in trusted or ():
        try:
            proxies.append(plain_network(text))
        except ValueError:
            raise ValueError(
                f"--trust-proxy {text!r}: write an address or a network, like 10.0.0.7 or 10.0.0.0/8"
            ) from None
    return proxies


def limits_of(
    *,
    body_mb: int,
    max_images: int,
    max_steps: int,
    max_waiting: int,
    open_jobs: int,
    jobs_per_min: int,
    abandon_s: float,
    free_mb: int,
    connections: int | None,
    address_connections: int,
) -> Limits:
    """Limits from the options; raises the soft limit of open files if needed. Raises ValueError if two options contradict
    each other or too few files may be open."""
    if max_images > max_waiting:
        raise ValueError(f"--max-images {max_images}: such a job never fits --max-waiting {max_waiting}; choose fewer")
    return Limits(
        body_bytes=body_mb << 20,
        bodies_bytes=max(body_mb << 20, 128 << 20),
        images=max_images,
        steps=max_steps,
        open_jobs=open_jobs,
        jobs_per_min=jobs_per_min,
        abandon_s=abandon_s,
        free_bytes=free_mb << 20,
        connections=descriptors.connections(connections),
        address_connections=address_connections,
    )
