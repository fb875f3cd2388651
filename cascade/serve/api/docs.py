"""The OpenAPI description as one page of plain HTML, without scripts or external resources."""

from html import escape
from typing import Any

HEAD = """<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<link rel="icon" href="data:,"><link rel="stylesheet" href="page.css"></head><body class="docs"><h1>{title}</h1>
<p>In machine-readable form: <a href="openapi.json">openapi.json</a>. <a href="./">The page</a>.</p>
<pre>curl -s {url}v1/jobs -H 'Content-Type: application/json' -d '{{"prompts": ["red heart"], "num": 4}}'
curl -sN {url}v1/jobs/ID/events</pre>
<p>Events: <code>stage_started</code>, <code>preview</code>, <code>stage_finished</code>; the last one is <code>held</code>,
<code>finished</code>, <code>failed</code> or <code>cancelled</code>. Errors:
<code>{{"error": {{"code", "message", "type"}}}}</code>;
429, 503 and 507 may have Retry-After, in seconds. If the server uses keys, send <code>Authorization: Bearer KEY</code>.
Stages, settings and limits are in <a href="v1/models">/v1/models</a>.</p>
"""


def docs_page(schema: dict[str, Any], url: str) -> str:
    """A section for each route, with its description, parameters and body fields. url: the server's."""
    parts = [HEAD.format(title=escape(schema["info"]["title"]), url=escape(url))]
    for path, methods in schema["paths"].items():
        for method, route in methods.items():
            parts.append(f"<h2><code>{method.upper()} {escape(path)}</code></h2>")
            parts.append(f"<p>{escape(route.get('description') or route.get('summary', ''))}</p>")
            parts.append(_table(_fields(route, schema)))
    return "\n".join([*parts, "</body></html>"])


def _fields(route: dict[str, Any], schema: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(name, type, default or "required") of parameters and body."""
    rows = [
        (
            parameter["name"],
            _kind(parameter["schema"]),
            "required" if parameter.get("required") else str(parameter["schema"].get("default", "")),
        )
        for parameter in route.get("parameters", [])
    ]
    body = route.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    model = schema.get("components", {}).get("schemas", {}).get(body.get("$ref", "").rpartition("/")[2], {})
    for name, field in model.get("properties", {}).items():
        default = "required" if name in model.get("required", []) else str(field.get("default", ""))
        rows.append((name, _kind(field), default))
    return rows


def _kind(field: dict[str, Any]) -> str:
    """The type and bounds of a field, in words."""
    if "anyOf" in field:
        return " or ".join(_kind(choice) for choice in field["anyOf"])
    kind = str(field.get("type", "any"))
    if "enum" in field:
        return ", ".join(map(str, field["enum"]))
    if "items" in field:
        kind += f" of {_kind(field['items'])}"
    if "minimum" in field or "maximum" in field:
        kind += f", {_number(field.get('minimum'))} to {_number(field.get('maximum'))}"
    return kind


def _number(bound: float | None) -> str:
    """A bound in its shortest form, an integer if it is one."""
    return "" if bound is None else str(int(bound) if bound == int(bound) else bound)


def _table(rows: list[tuple[str, str, str]]) -> str:
    lines = ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows]
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>" if lines else ""
