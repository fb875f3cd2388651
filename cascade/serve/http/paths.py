"""Path templates of the API: log lines and metrics name these, so that their number does not depend on what clients
request."""

import re
from functools import cache

from .. import page

PATHS = (
    "/v1/events",
    "/v1/jobs",
    "/v1/jobs/{job}",
    "/v1/jobs/{job}/events",
    "/v1/jobs/{job}/refine",
    "/v1/jobs/{job}/pictures",
    "/v1/jobs/{job}/stages/{stage}/{k}.png",
    "/v1/models",
    "/v1/models/{model}",
    "/v1/images/generations",
    "/healthz",
    "/readyz",
    "/startupz",
    "/metrics",
    "/docs",
    "/openapi.json",
    *page.ROUTES,
)


@cache
def patterns() -> dict[str, re.Pattern[str]]:
    """A compiled regular expression for each path template."""
    from starlette.routing import compile_path  # options load without the extra

    return {path: compile_path(path)[0] for path in PATHS}


def path_of(asked: str) -> str:
    """Template of a requested path: "/v1/jobs/abc" gives "/v1/jobs/{job}", an unknown path "-"."""
    return next((path for path, pattern in patterns().items() if pattern.match(asked)), "-")
