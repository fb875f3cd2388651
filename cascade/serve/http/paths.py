"""The paths of the API, for a log and metrics that must not depend on where a request ends."""

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
    from starlette.routing import compile_path  # options are read where the extra may be missing

    return {path: compile_path(path)[0] for path in PATHS}


def path_of(asked: str) -> str:
    """ "/v1/jobs/abc" is "/v1/jobs/{job}"; "-" where there is no such path, so that these names are few."""
    return next((path for path, pattern in patterns().items() if pattern.match(asked)), "-")
