"""openapi.json, of which clients are generated: the rules of its form, and that the server keeps what it says."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cascade.serve.http.keys import Keys
from cascade.serve.http.limits import Limits
from tests.serve.serving import Client

KEY = "alice-0123456789abcdef"
PICTURE = "/v1/jobs/{job}/stages/{stage}/{k}.png"


def test_the_description_is_well_formed(client: Client):
    validator = pytest.importorskip(
        "openapi_spec_validator", reason="missing: openapi-spec-validator; uv sync --group dev"
    )
    validator.validate(client.get("/openapi.json").json())


def test_the_largest_seed_is_told_to_the_last_digit(client: Client):
    assert "0 to 9223372036854775807" in client.get("/docs").text
    for path in ("/docs", "/openapi.json"):
        text = client.get(path).text
        assert "9223372036854775807" in text
        assert "9223372036854775808" not in text
        assert "e+18" not in text


def test_every_error_is_described_as_json(client: Client):
    for path, methods in client.get("/openapi.json").json()["paths"].items():
        for method, route in methods.items():
            errors = {int(status): answer for status, answer in route["responses"].items() if status >= "400"}
            assert {400, 408, 413, 431, 500, 503} <= set(errors), (method, path)
            for status, answer in errors.items():
                schema = answer["content"]["application/json"]["schema"]
                assert schema == {"$ref": "#/components/schemas/ErrorBody"}, (method, path, status)
                assert set(answer["content"]) == {"application/json"} or (path, status) in (
                    ("/healthz", 503),
                    ("/readyz", 503),
                )
            assert set(errors[400]["headers"]) == {"X-Request-Id"}
            assert set(errors[503]["headers"]) == {"X-Request-Id", "Retry-After"}


@pytest.mark.parametrize(
    ("method", "path", "wanted"),
    [
        ("post", "/v1/jobs", {401, 403, 421, 422, 429, 507}),
        ("get", "/v1/jobs", {401, 421, 422, 429}),
        ("get", PICTURE, {401, 404, 410, 421, 422, 429}),
        ("delete", "/v1/jobs/{job}/pictures", {401, 403, 404, 409, 410, 421, 422, 429}),
        ("post", "/v1/images/generations", {401, 403, 404, 409, 421, 429, 507}),
        ("get", "/healthz", set()),
    ],
)
def test_which_errors_a_route_has(client: Client, method: str, path: str, wanted: set[int]):
    route = client.get("/openapi.json").json()["paths"][path][method]
    found = {int(status) for status in route["responses"] if status >= "400"}
    assert found == wanted | {400, 408, 413, 431, 500, 503}


def test_streams_and_pictures_are_described(client: Client):
    paths = client.get("/openapi.json").json()["paths"]
    said = paths["/v1/images/generations"]["post"]["responses"]["200"]["content"]
    assert set(said) == {"application/json", "text/event-stream"}
    assert said["application/json"]["schema"] == {"$ref": "#/components/schemas/ImagesView"}
    assert set(paths["/v1/jobs/{job}/events"]["get"]["responses"]["200"]["content"]) == {"text/event-stream"}
    assert set(paths[PICTURE]["get"]["responses"]["200"]["content"]) == {"image/png"}


def test_whether_a_key_is_needed(client: Client, serve):
    schemes = ["bearer", "header", "cookie"]
    for asked, optional in ((client, [{}]), (serve(keys=Keys({"alice": KEY})).client, [])):
        found = asked.get("/openapi.json").json()
        assert list(found["components"]["securitySchemes"]) == schemes
        assert found["paths"]["/v1/jobs"]["post"]["security"] == [*optional, *({name: []} for name in schemes)]
        assert found["paths"]["/healthz"]["get"]["security"] == []


def test_another_method_is_told_which_there_are(client: Client):
    answer = client.put("/v1/jobs/x")
    assert (answer.status_code, answer.headers["allow"]) == (405, "DELETE, GET")
    assert client.put("/v1/jobs").headers["allow"] == "GET, POST"


@pytest.mark.matrix
@pytest.mark.slow
def test_the_server_keeps_what_it_says(serve, tmp_path: Path):
    """Requests made from the description, good and bad: no 5xx, every status, header and body as described."""
    pytest.importorskip("schemathesis", reason="missing: schemathesis; uv sync --group dev")
    serving = serve(
        keys=Keys({"alice": KEY}), limits=Limits(images=2, steps=4, open_jobs=10_000, jobs_per_min=100_000, scale=1)
    )
    refusals = (
        "[checks.negative_data_rejection]\nexpected-statuses = [400, 401, 403, 404, 409, 413, 421, 422, 429, 431]\n"
    )
    (tmp_path / "schemathesis.toml").write_text(refusals)
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run", f"{serving.url}/openapi.json", "--no-color"),
        *("--header", f"Authorization: Bearer {KEY}", "--max-examples", "10", "--seed", "1"),
        *("--exclude-checks", "positive_data_acceptance"),  # what a job may be depends on the cascade
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=dict(os.environ), timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
