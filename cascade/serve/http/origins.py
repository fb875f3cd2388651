"""Refuses requests from other sites' pages: `Origin` is compared with `Host`, by name and port.

A proxy may forward another `Host` than the one requested; `Origin` and `Sec-Fetch-Site` are set by the browser, and no page
can choose them. `X-Forwarded-Host` is not read: it is only as trustworthy as the last proxy.
"""

from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from .limits import Refused

if TYPE_CHECKING:  # options load without the extra
    from starlette.datastructures import Headers

PORTS = {"http": 80, "https": 443}
SHOWN_CHARACTERS = 200  # characters of a client's value in messages


@dataclass(frozen=True, kw_only=True)
class Authority:
    """A host's name in canonical form, and its port if given."""

    name: str
    port: int | None


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The scheme, host and port that a page comes from."""

    scheme: str
    name: str
    port: int


def authority_of(text: str) -> Authority | None:
    """Parse a host like "Example.com.", "a:8000" or "[::0001]:443"; None if it is none."""
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
    return Authority(name=name, port=port)


def origin_of(text: str) -> Origin | None:
    """Parse an origin like "https://example.com", by default with its scheme's port; None for "null" and for anything that
    no page can come from."""
    scheme, _, host = text.partition("://")
    authority, usual = authority_of(host), PORTS.get(scheme.lower())
    if authority is None or usual is None:
        return None
    return Origin(scheme=scheme.lower(), name=authority.name, port=usual if authority.port is None else authority.port)


def is_same(origin: Origin | None, authority: Authority | None) -> bool:
    """Whether a page of this origin addresses its own server; a host without a port stands for the scheme's default port."""
    if origin is None or authority is None:
        return False
    return (origin.name, origin.port) == (
        authority.name,
        PORTS[origin.scheme] if authority.port is None else authority.port,
    )


def check_origin(headers: "Headers", allowed: frozenset[Origin]) -> None:
    """Check a state-changing request. Raises Refused if another site's page sent it."""
    text, host, site = headers.get("origin", ""), headers.get("host", ""), headers.get("sec-fetch-site", "none")
    origin = origin_of(text)
    if site == "same-origin" or origin in allowed:
        return
    if site == "none" and (not text or is_same(origin, authority_of(host))):
        return  # no browser, or plain http beyond loopback, where browsers omit Sec-Fetch-Site
    hint = "let the proxy pass Host on (nginx: proxy_set_header Host $http_host)"
    if origin is not None:
        hint += f" or start the server with --allow-origin {text[:SHOWN_CHARACTERS]}"
    values = f"Origin says {text[:SHOWN_CHARACTERS]!a}, Host says {host[:SHOWN_CHARACTERS]!a}"
    raise Refused(
        403, "foreign_origin", f"{values}: other sites' pages are refused; if it is this server's page, {hint}"
    )
