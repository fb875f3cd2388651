"""Whose pages may change something: what `Origin` says is compared with what `Host` says, by name and port.

A proxy may send another `Host` on than it was asked for; `Origin` and `Sec-Fetch-Site` are words of the browser, which no page can
choose. `X-Forwarded-Host` is for whoever trusts the last proxy, so it is not looked at.
"""

from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from .limits import Refused

if TYPE_CHECKING:  # options are read where the extra may be missing
    from starlette.datastructures import Headers

PORTS = {"http": 80, "https": 443}
SHOWN = 200  # characters of what a client said


@dataclass(frozen=True, kw_only=True)
class Place:
    """A host's name in the one form that is compared, and its port where one was said."""

    name: str
    port: int | None


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a page is from."""

    scheme: str
    name: str
    port: int


def place_of(text: str) -> Place | None:
    """Of "Example.com.", "a:8000", "[::0001]:443"; None where it is no host."""
    try:
        parts = urlsplit(f"//{text}")
        name, port = (parts.hostname or "").removesuffix("."), parts.port
        name = name if name.isascii() else name.encode("idna").decode()  # as browsers send it
    except ValueError:
        return None
    if not name or parts.netloc != text or "@" in text or any(letter.isspace() for letter in text):
        return None
    with suppress(ValueError):
        name = str(ip_address(name))
    return Place(name=name, port=port)


def origin_of(text: str) -> Origin | None:
    """Of "https://example.com"; the port of the scheme where none is said. None for "null" and all that no page can be from."""
    scheme, _, host = text.partition("://")
    place, usual = place_of(host), PORTS.get(scheme.lower())
    if place is None or usual is None:
        return None
    return Origin(scheme=scheme.lower(), name=place.name, port=usual if place.port is None else place.port)


def is_same(origin: Origin | None, place: Place | None) -> bool:
    """Whether a page from there asks its own server; a host without a port means that of the page's scheme."""
    if origin is None or place is None:
        return False
    return (origin.name, origin.port) == (place.name, PORTS[origin.scheme] if place.port is None else place.port)


def check_origin(headers: "Headers", allowed: frozenset[Origin]) -> None:
    """Of a request that may change something. Raises Refused for a page of another site."""
    said, host, site = headers.get("origin", ""), headers.get("host", ""), headers.get("sec-fetch-site", "none")
    origin = origin_of(said)
    if site == "same-origin" or origin in allowed:
        return
    if site == "none" and (not said or is_same(origin, place_of(host))):
        return  # no browser, or one that does not say more: it does so on https and on loopback only
    fix = "let the proxy pass Host on (nginx: proxy_set_header Host $http_host)"
    if origin is not None:
        fix += f" or start the server with --allow-origin {said[:SHOWN]}"
    values = f"Origin says {said[:SHOWN]!a}, Host says {host[:SHOWN]!a}"
    raise Refused(
        403, "foreign_origin", f"{values}: other sites' pages are refused; if it is this server's page, {fix}"
    )
