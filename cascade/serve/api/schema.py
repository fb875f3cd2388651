"""Completes openapi.json: FastAPI knows routes and bodies; the errors of guard and handlers, the keys and the headers are
added here. Clients are generated from it, so it lists every status that a route can return."""

from typing import Any

from fastapi import FastAPI
from pydantic import TypeAdapter

from cascade.request import MAX_SEED

from ..http.guard import COOKIE, PROBES
from .openai import PATH
from .views import ErrorBody

Described = dict[str, Any]

ERRORS = {
    400: "The request is malformed. On OpenAI's route also any invalid value, with the field in `param`.",
    401: "The key is missing or wrong.",
    403: "The request was sent by another site's page.",
    404: "Not found, or it belongs to another key.",
    408: "The body did not arrive in time.",
    409: "The state of the job does not allow this, or it was cancelled.",
    410: "The pictures have expired.",
    413: "The body, or a picture in it, is too large.",
    421: "The Host header has a name that is not one of this server's.",
    422: "A value is invalid; one line says which, and what is allowed.",
    429: "Too many jobs, images, streams or wrong keys.",
    431: "The head of the request is too large.",
    500: "A defect of the server, or the job failed.",
    503: "Temporarily unavailable: busy, starting, shutting down, out of memory, or the disk fails.",
    507: "No space is left on the disk.",
}
RETRIED = (429, 503, 507)  # may have Retry-After
SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "cookie": {"type": "apiKey", "in": "cookie", "name": COOKIE},
}


class Routes(FastAPI):
    """FastAPI with the completed description. keyed: whether every request needs a key; else it is described as optional."""

    def __init__(self, *, keyed: bool, **said: Any):
        super().__init__(**said)
        self.keyed = keyed
        self._whole: Described | None = None

    def openapi(self) -> Described:
        """The completed description, made once."""
        schema = super().openapi()  # FastAPI makes it once
        if schema is not self._whole:
            complete(schema, keyed=self.keyed)
            self._whole = schema
        return schema


def complete(found: Described, *, keyed: bool) -> None:
    """Add errors, keys and headers to FastAPI's description."""
    parts = found.setdefault("components", {})
    schemas = parts.setdefault("schemas", {})
    error = TypeAdapter(ErrorBody).json_schema(ref_template="#/components/schemas/{model}")
    schemas |= {**error.pop("$defs"), "ErrorBody": error}
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    restore_bounds(found)
    parts["securitySchemes"] = SCHEMES
    parts["headers"] = {
        "RetryAfter": {"description": "Seconds after which a retry may succeed.", "schema": {"type": "integer"}},
        "RequestId": {"description": "Id of this request in the server's log.", "schema": {"type": "string"}},
    }
    for path, methods in found["paths"].items():
        for method, route in methods.items():
            needed: list[Described] = [{name: []} for name in SCHEMES]
            route["security"] = [] if path in PROBES else needed if keyed else [{}, *needed]
            answers = route["responses"]
            answers.pop("422", None)  # FastAPI's own form of errors
            own = {int(status) for status in answers if int(status) >= 400}
            for status in sorted(own | statuses(path, method, route)):
                answer = answers.setdefault(str(status), {"description": ERRORS[status]})
                answer.setdefault("content", {})["application/json"] = {
                    "schema": {"$ref": "#/components/schemas/ErrorBody"}
                }
                if status in RETRIED:
                    answer["headers"] = {"Retry-After": {"$ref": "#/components/headers/RetryAfter"}}
            for answer in answers.values():
                answer.setdefault("headers", {})["X-Request-Id"] = {"$ref": "#/components/headers/RequestId"}
                for content in answer.get("content", {}).values():
                    if "$ref" in content.get("schema", {}):
                        content["schema"] = {"$ref": content["schema"]["$ref"]}  # ours, without FastAPI's


def restore_bounds(node: object) -> None:
    """Bounds of integers as integers: FastAPI writes them as floats, which cannot represent the largest seed."""
    if isinstance(node, dict):
        if node.get("type") == "integer":
            for key in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"):
                if isinstance(node.get(key), float):
                    node[key] = min(int(node[key]), MAX_SEED)
        for child in node.values():
            restore_bounds(child)
    elif isinstance(node, list):
        for child in node:
            restore_bounds(child)


def statuses(path: str, method: str, route: Described) -> set[int]:
    """Error statuses that a route can return, besides those that it declares itself."""
    codes = {400, 408, 413, 431, 500, 503}
    if path not in PROBES:
        codes |= {401, 421, 429}
    if method != "get":
        codes.add(403)
    if "{" in path or path == PATH:
        codes.add(404)
    if "{job}" in path:
        codes.add(410)
    if path == PATH:
        codes.add(409)
    elif "parameters" in route or "requestBody" in route:
        codes.add(422)
    if method == "post":
        codes.add(507)
    return codes
