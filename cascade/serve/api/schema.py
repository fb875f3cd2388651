"""openapi.json made whole: FastAPI knows the routes and bodies; which errors the guard and the handlers give, the keys and the
headers are added here. Clients are generated from it, so every status that a route can have stands there.
"""

from typing import Any

from fastapi import FastAPI
from pydantic import TypeAdapter

from cascade.request import MAX_SEED

from ..http.guard import COOKIE, PROBES
from .openai import PATH
from .views import ErrorBody

Described = dict[str, Any]

ERRORS = {
    400: "A request that is not well-formed; on OpenAI's route every mistake, with the field in `param`.",
    401: "No valid key.",
    403: "Sent by a page of another site.",
    404: "There is no such thing here, or it is another key's.",
    408: "The body did not arrive in time.",
    409: "The job is not in a state for it.",
    410: "The pictures have expired.",
    413: "The body, or a picture in it, is too large.",
    421: "A name in the Host header that this server does not answer to.",
    422: "A mistake: what, where, what is allowed, in one line.",
    429: "Too many jobs, streams or requests.",
    431: "The head of the request is too large.",
    500: "A defect of the server, or a job that failed.",
    503: "Not now: shutting down, out of memory, or the disk fails.",
    507: "No space is left for pictures.",
}
LATER = (429, 503, 507)  # may say when to come again
SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "cookie": {"type": "apiKey", "in": "cookie", "name": COOKIE},
}


class Routes(FastAPI):
    """keyed: whether a key is needed; where it is not known, it may be."""

    def __init__(self, *, keyed: bool, **said: Any):
        super().__init__(**said)
        self.keyed = keyed
        self._whole: Described | None = None

    def openapi(self) -> Described:
        found = super().openapi()  # made once
        if found is not self._whole:
            complete(found, keyed=self.keyed)
            self._whole = found
        return found


def complete(found: Described, *, keyed: bool) -> None:
    """Adds what is missing."""
    parts = found.setdefault("components", {})
    schemas = parts.setdefault("schemas", {})
    error = TypeAdapter(ErrorBody).json_schema(ref_template="#/components/schemas/{model}")
    schemas |= {**error.pop("$defs"), "ErrorBody": error}
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    restore_bounds(found)
    parts["securitySchemes"] = SCHEMES
    parts["headers"] = {
        "RetryAfter": {"description": "Seconds until it may help to try again.", "schema": {"type": "integer"}},
        "RequestId": {"description": "What the server's log calls this request.", "schema": {"type": "string"}},
    }
    for path, methods in found["paths"].items():
        for method, route in methods.items():
            needed: list[Described] = [{name: []} for name in SCHEMES]
            route["security"] = [] if path in PROBES else needed if keyed else [{}, *needed]
            answers = route["responses"]
            answers.pop("422", None)  # FastAPI's own form of it
            own = {int(status) for status in answers if int(status) >= 400}
            for status in sorted(own | statuses(path, method, route)):
                answer = answers.setdefault(str(status), {"description": ERRORS[status]})
                answer.setdefault("content", {})["application/json"] = {
                    "schema": {"$ref": "#/components/schemas/ErrorBody"}
                }
                if status in LATER:
                    answer["headers"] = {"Retry-After": {"$ref": "#/components/headers/RetryAfter"}}
            for answer in answers.values():
                answer.setdefault("headers", {})["X-Request-Id"] = {"$ref": "#/components/headers/RequestId"}
                for content in answer.get("content", {}).values():
                    if "$ref" in content.get("schema", {}):
                        content["schema"] = {"$ref": content["schema"]["$ref"]}  # of two descriptions, ours


def restore_bounds(node: object) -> None:
    """Those of integers, which FastAPI tells as floats: the largest seed is none."""
    if isinstance(node, dict):
        if node.get("type") == "integer":
            for key in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"):
                if isinstance(node.get(key), float):
                    node[key] = min(int(node[key]), MAX_SEED)
        for each in node.values():
            restore_bounds(each)
    elif isinstance(node, list):
        for each in node:
            restore_bounds(each)


def statuses(path: str, method: str, route: Described) -> set[int]:
    """Of errors that a route can give, besides those that it names itself."""
    found = {400, 408, 413, 431, 500, 503}
    if path not in PROBES:
        found |= {401, 421, 429}
    if method != "get":
        found.add(403)
    if "{" in path or path == PATH:
        found.add(404)
    if "{job}" in path:
        found.add(410)
    if path == PATH:
        found.add(409)
    elif "parameters" in route or "requestBody" in route:
        found.add(422)
    if method == "post":
        found.add(507)
    return found
