"""Keys: a request without a valid one is refused, and each key sees only its own jobs."""

import httpx
import pytest

from cascade.serve.http.guard import COOKIE
from cascade.serve.http.keys import Keys
from cascade.serve.http.limits import Limits
from tests.serve.serving import FEW, Serving

KEY, OTHER = "alice-0123456789abcdef", "bob-0123456789abcdefgh"


@pytest.fixture
def keyed(serve) -> Serving:
    return serve(keys=Keys({"alice": KEY, "bob": OTHER}), limits=Limits(jobs_per_min=20))


def test_requests_need_a_valid_key(keyed: Serving):
    client = keyed.client
    for headers in (
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": f"Basic {KEY}"},
        {"authorization": "Bearer"},
        {"authorization": f"Bearer {KEY[:-1]}"},
        {"x-api-key": "wrong"},
        {"cookie": f"{COOKIE}=wrong"},
        {"cookie": "\x80;;=="},
    ):
        for method, path in (("GET", "/v1/jobs"), ("POST", "/v1/jobs"), ("GET", "/v1/models"), ("GET", "/metrics")):
            answer = client.request(method, path, headers={k: v.encode("latin1") for k, v in headers.items()})
            assert answer.status_code == 401, (headers, path)
            assert client.error(answer) == "invalid_api_key"
            assert answer.headers["www-authenticate"] == "Bearer"
    for headers in (
        {"authorization": f"Bearer {KEY}"},
        {"x-api-key": KEY},
        {"cookie": f'a=b; p={{"x":1}}; y=a b; {COOKIE}={KEY}'},
    ):
        assert client.get("/v1/jobs", headers=headers).status_code == 200
    for path in ("/", "/healthz", "/readyz", "/docs", "/openapi.json"):
        assert client.get(path).status_code == 200


def test_a_key_does_not_see_the_jobs_of_another(keyed: Serving):
    alice, bob = ({"authorization": f"Bearer {key}"} for key in (KEY, OTHER))
    keyed.client.headers = httpx.Headers(alice)
    job = keyed.client.run()
    url = job["stages"][0]["urls"][0]
    assert keyed.client.get(url).status_code == 200
    for method, path in (
        ("GET", job["url"]),
        ("DELETE", job["url"]),
        ("GET", job["events"]),
        ("GET", url),
        ("POST", f"{job['url']}/refine"),
    ):
        answer = keyed.client.request(method, path, headers=bob, json={} if method == "POST" else None)
        assert answer.status_code == 404, path
    assert keyed.client.get("/v1/jobs", headers=bob).json()["jobs"] == []


def test_each_key_has_a_rate_of_its_own(keyed: Serving):
    alice, bob = ({"authorization": f"Bearer {key}"} for key in (KEY, OTHER))
    body = {"json": {"prompts": ["x"], "settings": FEW}}
    answers = [keyed.client.post("/v1/jobs", headers=alice, **body) for _ in range(25)]
    assert {answer.status_code for answer in answers[:20]} == {202}
    assert answers[-1].status_code == 429
    assert keyed.client.error(answers[-1]) == "too_many_requests"
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 5
    assert keyed.client.post("/v1/jobs", headers=bob, **body).status_code == 202


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing",
        "short",
        "a: b c d e f g h i j k l m",
        "a: " + KEY + "\na: " + OTHER,
        "a: " + KEY + "\nb: " + KEY,
        "\xff" + KEY,
    ],
)
def test_an_invalid_file_of_keys_is_refused(tmp_path, text: str):
    path = tmp_path / "keys"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match="keys"):
        Keys.read(path)


def test_a_file_of_keys_is_read(tmp_path):
    path = tmp_path / "keys"
    path.write_text(f"# people\nalice: {KEY}  # at home\n\n{OTHER}\n")
    keys = Keys.read(path)
    assert keys.owner(KEY) == "alice"
    assert keys.owner(OTHER) not in (None, "alice")
    assert keys.owner("") is None
