"""JSON for clients that poll: 304 if nothing has changed, gzip if the client accepts it."""

import gzip
import hashlib
import json

from starlette.datastructures import Headers
from starlette.responses import Response

from ..jobs.job import Data

SMALL = 1024  # bytes; less is not compressed


def answer(headers: Headers, data: Data) -> Response:
    """The data as JSON, or 304. headers: the request's. Compression takes time, so call it in a worker thread."""
    body = json.dumps(data, separators=(",", ":")).encode()
    response_headers = {"etag": f"W/{tag_of(body)}", "vary": "accept-encoding"}
    if is_known(headers, response_headers["etag"]):
        return Response(status_code=304, headers=response_headers)
    if len(body) > SMALL and reads_gzip(headers):
        body, response_headers["content-encoding"] = gzip.compress(body, 5, mtime=0), "gzip"
    return Response(body, media_type="application/json", headers=response_headers)


def tag_of(body: bytes) -> str:
    """ETag of a content, independent of its file's time: installers and images may set all files to one time."""
    return f'"{hashlib.sha256(body).hexdigest()[:16]}"'


def is_known(headers: Headers, tag: str) -> bool:
    """Whether If-None-Match has this tag."""
    tags = [part.strip().removeprefix("W/") for part in headers.get("if-none-match", "").split(",")]
    return "*" in tags or tag.removeprefix("W/") in tags


def reads_gzip(headers: Headers) -> bool:
    """Whether Accept-Encoding allows gzip."""
    for part in headers.get("accept-encoding", "").lower().split(","):
        name, _, weight = part.replace(" ", "").partition(";q=")
        if name in ("gzip", "*"):
            return weight.strip("0.") != "" or not weight
    return False
