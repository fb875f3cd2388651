"""What clients get wrong or try on: one line of JSON with the right status, before any work."""

import io
import json
import socket
import struct
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest import mock

import httpx
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from cascade.serve.api import app, bodies
from cascade.serve.http.guard import COOKIE
from cascade.serve.http.keys import Keys
from cascade.serve.http.limits import Limits
from tests.cascade.chains import tiny
from tests.data import bombs as small
from tests.serve.serving import FEW, Client, Serving, b64, read_all, until

GOOD: dict[str, Any] = {"prompts": ["red heart"]}
JSON = {"content-type": "application/json"}
OUTSIDE = "/v1/jobs/../../../../etc/passwd"


def jobs(client: Client) -> int:
    return len(client.get("/v1/jobs", params={"limit": 200}).json()["jobs"])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"nothing",
        b'{"prompts": ["x"]',
        b"\xff\xfe",
        b'{"prompts": ["\xff"]}',
        b"[" * 100_000,
        b'{"num": ' + b"9" * 10_000 + b"}",
        b"[]",
        b'"x"',
        b"null",
        b'{"prompts": ["\\ud800"]}',
    ],
    ids=lambda content: repr(content[:16]),
)
def test_malformed_json_is_refused(client: Client, content: bytes):
    before = jobs(client)
    answer = client.post("/v1/jobs", content=content, headers=JSON)
    assert answer.status_code in (400, 422)
    assert client.error(answer) in ("bad_request", "invalid_request")
    if content == b"{":
        assert answer.json()["error"]["message"].startswith("body: not JSON at character 1: ")
    assert jobs(client) == before


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"prompts": "red heart"}, "prompts"),
        ({"prompts": [1]}, "prompts.0"),
        ({"prompts": None}, "prompts"),
        ({"prompts": ["x" * 3000]}, "prompts"),
        ({"prompts": ["x"] * 65}, "num"),
        ({"num": "2"}, "num"),
        ({"num": 2.5}, "num"),
        ({"num": True}, "num"),
        ({"num": 0}, "num"),
        ({"num": -1}, "num"),
        ({"num": 65}, "num"),
        ({"num": 10**9}, "num"),
        ({"seed": 2**70}, "seed"),
        ({"seed": -1}, "seed"),
        ({"seed": "x"}, "seed"),
        ({"size": [99_999, 99_999]}, "size"),
        ({"size": [64]}, "size"),
        ({"size": [0, 64]}, "size"),
        ({"size": [-64, 64]}, "size"),
        ({"size": [65, 64]}, "multiples"),
        ({"size": [320, 64]}, "size"),
        ({"size": [256, 256], "num": 8}, "size"),
        ({"size": "64x64"}, "size"),
        ({"until": "sr_99"}, "sr_99"),
        ({"until": 3}, "until"),
        ({"settings": {"sr_99": {}}}, "sr_99"),
        ({"settings": {"sr_64": {"num_steps": 10**9}}}, "num_steps"),
        ({"settings": {"sr_64": {"num_steps": 101}}}, "num_steps"),
        ({"settings": {"sr_64": {"num_steps": 0}}}, "num_steps"),
        ({"settings": {"sr_64": {"num_steps": "many"}}}, "num_steps"),
        ({"settings": {"sr_64": {"num_steps": "2"}}}, "num_steps"),
        ({"settings": {"base_16": {"guidance_interval": [5, 1]}}}, "guidance_interval"),
        ({"settings": {"sr_64": {"aug_sigma": 5.0}}}, "aug_sigma"),
        ({"settings": {"base_16": {"sigma_min": 79.99999999999999}}}, "noise levels"),
        ({"settings": {"sr_64": {"rho": 0.1, "sigma_min": 0.001}}}, "noise levels"),
        ({"settings": {"x" * 300: {}}}, "settings"),
        ({"until": "x" * 300}, "until"),
        ({"settings": {"sr_64": {"sampler": "magic"}}}, "sampler"),
        ({"settings": {"sr_64": {"stepps": 3}}}, "stepps"),
        ({"settings": {"sr_64": 3}}, "settings.sr_64"),
        ({"settings": {"sr_64": {"num_steps": {"a": 1}}}}, "num_steps"),
        ({"labels": [1]}, "label"),
        ({"labels": [1], "prompts": []}, "label"),
        ({"labels": ["cat"], "prompts": []}, "cat"),
        ({"image": 3}, "image"),
        ({"image": "not base64!"}, "image"),
        ({"image": b64(b"not a picture")}, "image"),
        ({"owner": "me"}, "owner"),
        ({"prompt": "x"}, "prompt: no such field; did you mean prompts?"),
        ({"settings": {"sr_64": {"guidance_scale": 3}}}, "trained without text or classes"),
        ({"first": "sr_64"}, "first"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_wrong_types_and_absurd_values_are_refused_by_name(client: Client, body: dict[str, Any], named: str):
    before = jobs(client)
    answer = client.post("/v1/jobs", json=GOOD | body)
    assert answer.status_code == 422, answer.text
    assert client.error(answer) == "invalid_request"
    assert named in answer.json()["error"]["message"]
    assert jobs(client) == before


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999", "-1", "101"])
def test_guidance_that_is_not_a_finite_number_is_refused(client: Client, value: str):
    content = '{"prompts": ["x"], "settings": {"base_16": {"guidance_scale": VALUE}}}'.replace("VALUE", value)
    answer = client.post("/v1/jobs", content=content, headers=JSON)
    assert answer.status_code == 422
    assert "guidance_scale" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "body",
    [
        {"from": "sr_64"},
        {"from": "nowhere"},
        {"from": "base_16", "pick": [7]},
        {"from": "base_16", "pick": [-1]},
        {"from": "base_16", "pick": [0, 0]},
        {"from": "base_16", "pick": [10**30]},
        {"from": "base_16", "pick": ["0"]},
        {"from": "base_16", "until": "base_16"},
        {"from": "base_16", "settings": {"base_17": {}}},
        {"from": "base_16", "settings": {"base_16": {"num_steps": 3}}},
        {"from": "base_16", "settings": {"sr_64": {"num_steps": 10**6}}},
    ],
    ids=str,
)
def test_refining_what_does_not_exist_is_refused(client: Client, body: dict[str, Any]):
    held = client.run(until="base_16")
    answer = client.post(f"/v1/jobs/{held['id']}/refine", json=body)
    assert answer.status_code == 422, answer.text
    client.error(answer)


@pytest.mark.parametrize("said", ["x", "-1", "1.5", "9" * 30, "٣"])
def test_a_last_event_id_that_is_no_number_is_refused(client: Client, said: str):
    job = client.run()
    answer = client.get(f"/v1/jobs/{job['id']}/events", headers={"last-event-id": said.encode()})
    assert answer.status_code == 422


def test_a_prompt_for_a_class_cascade_and_a_label_too_high_are_refused(serve, tmp_path):
    client = serve(cascade=tiny(8, 16, classes=4), folder=tmp_path / "classes").client
    text = client.post("/v1/jobs", json=GOOD)
    assert text.status_code == 422
    assert "class labels" in text.json()["error"]["message"]
    assert client.post("/v1/jobs", json={"labels": [4]}).status_code == 422
    openai = client.post("/v1/images/generations", json={"prompt": "red heart"})
    assert (openai.status_code, openai.json()["error"]["param"]) == (400, "prompt")
    assert client.run(prompts=[], labels=[3], settings={})["state"] == "finished"


def test_json_of_another_content_type_is_refused(client: Client):
    answer = client.post(
        "/v1/jobs", content=json.dumps(GOOD), headers={"content-type": "application/x-www-form-urlencoded"}
    )
    assert answer.status_code == 422
    assert "Content-Type: application/json" in answer.json()["error"]["message"]


def test_a_picture_that_enters_after_until_is_refused(client: Client):
    answer = client.post("/v1/jobs", json={"image": b64(tiny_png()), "until": "base_16"})
    assert answer.status_code == 422
    assert answer.json()["error"]["message"] == "until: the picture enters at stage sr_64; allowed are sr_64"


def test_a_body_of_50_mb_is_refused(client: Client, serving: Serving):
    content = b'{"prompts": ["' + b"x" * (50 << 20) + b'"]}'
    answer = client.post("/v1/jobs", content=content, headers=JSON)
    assert answer.status_code == 413
    assert client.error(answer) == "too_large"
    assert serving.app._reading == 0  # nothing of it is still counted
    assert 'cascade_refused_total{code="too_large"} 1.0' in client.get("/metrics").text


def test_a_body_of_50_mb_without_a_length_is_refused(client: Client):
    parts = (b"x" * (1 << 20) for _ in range(50))
    answer = client.post("/v1/jobs", content=parts, headers=JSON)
    assert answer.status_code == 413


@pytest.mark.parametrize("length", ["-5", "1e9", "99999999999999999999999"])
def test_a_content_length_that_is_no_length_is_refused(serving: Serving, length: str):
    head = f"POST /v1/jobs HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    answer = serving.raw(head.encode() + b"{}", timeout_s=5.0)
    assert answer.split()[1] in (b"400", b"413")


@pytest.mark.parametrize(("version", "length"), [("1.1", "content-length: 5\r\n"), ("1.0", "")])
def test_a_body_whose_end_is_told_in_two_ways(serving: Serving, version: str, length: str):
    """What one of two servers takes for a body is a request for the other: one answer, and the connection ends."""
    head = f"POST /v1/jobs HTTP/{version}\r\nhost: 127.0.0.1\r\n{length}transfer-encoding: chunked\r\n\r\n"
    answer = serving.raw(head.encode() + b"0\r\n\r\nGET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
    assert answer.split()[1] == b"400"
    assert b"connection: close" in answer.lower()
    assert answer.count(b"HTTP/1.1 ") == 1


def many(num: int, fill: str) -> dict[str, bytes]:
    """Bodies of `num` wrong values, each of which could cost an error of its own."""
    pairs = ",".join(f'"k{k}":{fill}' for k in range(num))
    return {
        "settings of a stage": b'{"settings":{"base_16":{%s}}}' % pairs.encode(),
        "stages": b'{"settings":{%s}}' % pairs.encode(),
        "a list": b'{"settings":{"base_16":{"guidance_interval":[%s]}}}' % ",".join([fill] * num).encode(),
        "fields": b"{%s}" % pairs.encode(),
        "prompts": b'{"prompts":[%s]}' % ",".join([fill] * num).encode(),
        "labels": b'{"labels":[%s]}' % ",".join([fill] * num).encode(),
        "seeds": b'{"seed":[%s]}' % ",".join([fill] * num).encode(),
    }


@pytest.mark.parametrize(
    ("num", "status", "fill"), [(40_000, 422, "null"), (40_000, 422, "1"), (40_000, 422, "{}"), (800_000, 413, "null")]
)
def test_a_million_wrong_values_are_refused_in_time(client: Client, num: int, status: int, fill: str):
    """The event loop is not held up by saying what is wrong with each."""
    for name, body in many(num, fill).items():
        began = time.monotonic()
        answer = client.post("/v1/jobs", content=body, headers=JSON)
        assert answer.status_code == status, (name, answer.text)
        client.error(answer)
        assert time.monotonic() - began < 1.5, name


def test_half_a_body_makes_no_job(client: Client, serving: Serving):
    before = jobs(client)
    body = json.dumps(GOOD).encode()
    head = b"POST /v1/jobs HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n"
    with socket.create_connection(("127.0.0.1", serving.port)) as connection:
        connection.sendall(head + body)
        time.sleep(0.2)
    time.sleep(0.3)
    assert jobs(client) == before


def test_slow_requests_time_out(serve):
    """A head or a body that does not come holds no place."""
    serving = serve(limits=Limits(body_s=0.5))
    head = (
        b"POST /v1/jobs HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{"
    )
    began = time.monotonic()
    answer = serving.raw(head)
    assert answer.split()[1] == b"408"
    assert time.monotonic() - began < 5


@pytest.mark.matrix
def test_a_head_that_never_ends_times_out(serve, monkeypatch):
    monkeypatch.setattr("cascade.serve.http.protocol.HEAD_S", 0.5)
    serving = serve()
    began = time.monotonic()
    assert serving.raw(b"GET / HTTP/1.1\r\nhost: 127") == b""
    assert time.monotonic() - began < 5
    with socket.create_connection(("127.0.0.1", serving.port)) as connection:  # nor the second one of a connection
        connection.sendall(b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\nGET /he")
        connection.settimeout(10)
        assert read_all(connection).endswith(b"ok")
    assert serving.client.get("/healthz").text == "ok"


def test_many_bodies_at_once_are_bounded(serve):
    serving = serve(limits=Limits(bodies_bytes=1 << 20))
    head = (
        b"POST /v1/jobs HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: 900000\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", serving.port)) as first:
        first.sendall(head + b"x" * 800_000)
        until(lambda: serving.app._reading == 800_000)
        answer = serving.client.post("/v1/jobs", content=b"x" * 800_000, headers=JSON)
        assert answer.status_code == 503
        assert "retry-after" in answer.headers
    assert serving.client.post("/v1/jobs", json=GOOD).status_code == 202


def png(width: int, height: int, data: bytes, *extra: tuple[bytes, bytes]) -> bytes:
    """A PNG that claims a size, RGB of 8 bit, whatever its data are."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    rest = b"".join(chunk(*each) for each in (*extra, (b"IDAT", data), (b"IEND", b"")))
    return b"\x89PNG\r\n\x1a\n" + head + rest


def tiny_png() -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (64, 64)).save(content, "PNG")
    return content.getvalue()


def bombs() -> dict[str, tuple[bytes, int]]:
    """Name: picture, status."""
    zeros = zlib.compress(bytes(200 << 20), 9)  # 200 MB in 200 KB
    ok = io.BytesIO()
    Image.new("RGB", (64, 64)).save(ok, "PNG")
    text = PngInfo()
    text.add_text("x", "y" * (30 << 20), zip=True)
    wordy = io.BytesIO()
    Image.new("RGB", (64, 64)).save(wordy, "PNG", pnginfo=text)
    return {
        "claims 50,000 x 50,000": (png(50_000, 50_000, zeros), 422),
        "claims 2^31 x 2^31": (png(2**31 - 1, 2**31 - 1, b""), 422),
        "6,000 x 6,000": (png(6_000, 6_000, zeros), 413),
        "text of 30 MB": (wordy.getvalue(), 422),
        "profile of 200 MB": (png(64, 64, zlib.compress(bytes(64 * 193)), (b"iCCP", b"x\0\0" + zeros)), 422),
        "truncated": (ok.getvalue()[:60], 422),
        "no data": (png(64, 64, b""), 422),
        "zip after a PNG's head": (b"\x89PNG\r\n\x1a\nPK\x03\x04" + bytes(1000), 422),
        "SVG": (b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>', 422),
        "GIF": (b"GIF89a" + bytes(100), 422),
        "0 x 0": (png(0, 0, b""), 422),
    }


@pytest.mark.parametrize(("content", "status"), bombs().values(), ids=bombs().keys())
def test_upload_bombs_are_refused_in_bounded_time_and_memory(client: Client, content: bytes, status: int):
    before = peak_rss()
    began = time.monotonic()
    answer = client.post("/v1/jobs", json={"image": b64(content), "settings": {"sr_64": {"num_steps": 1}}})
    assert answer.status_code == status, answer.text
    client.error(answer)
    assert time.monotonic() - began < 5
    assert peak_rss() - before < 150


@pytest.mark.parametrize(("content", "why"), (SMALL := small.refused()).values(), ids=SMALL.keys())
def test_small_files_that_need_much_work_are_refused_early(client: Client, content: bytes, why: str):
    """Refused before the work, whatever it would be: the processor's time is this process's, client and server together."""
    body = json.dumps({"image": b64(content), "fit": True}).encode()
    began = time.process_time()
    answer = client.post("/v1/jobs", content=body, headers=JSON)
    assert time.process_time() - began < 1
    assert (answer.status_code, client.error(answer)) == (422, "invalid_request")
    assert answer.json()["error"]["message"].startswith(f"image: {why}")


def test_few_large_pictures_are_decoded_at_once(serve, monkeypatch):
    """However many are sent at once: each is legal and takes some 100 MB. Others are answered meanwhile."""
    at_once, most, decode = 0, 0, bodies.decode_image

    def counted(content):
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        time.sleep(0.1)
        at_once -= 1
        return decode(content)

    monkeypatch.setattr(bodies, "decode_image", counted)
    serving = serve(limits=Limits(jobs_per_min=200, open_jobs=200))
    body = {"image": b64(tiny_png()), "settings": {"sr_64": {"num_steps": 1}}}
    with ThreadPoolExecutor(60) as pool:
        answers = [pool.submit(serving.client.post, "/v1/jobs", json=body) for _ in range(60)]
        time.sleep(0.3)
        began = time.monotonic()
        assert serving.client.get("/healthz").status_code == 200
        assert time.monotonic() - began < 1
        assert [answer.result().status_code for answer in answers] == [202] * 60
    assert most == app.UPLOADS


def test_the_rate_counts_before_a_picture_is_decoded(serve, monkeypatch):
    monkeypatch.setattr(bodies, "decode_image", mock.Mock(side_effect=ValueError("no")))
    client = serve(limits=Limits(jobs_per_min=3)).client
    body = {"image": b64(tiny_png())}
    assert [client.post("/v1/jobs", json=body).status_code for _ in range(5)] == [422] * 3 + [429] * 2
    assert bodies.decode_image.call_count == 3


@pytest.mark.parametrize(
    ("size", "fit", "message"),
    [
        ((24, 1_000_000), True, "at most 4 times as long as wide"),
        (
            (24, 1_000_000),
            False,
            "24x1000000 px would become 96x4000000 px; at most 256 px a side are allowed; send fit: true",
        ),
        ((65, 64), False, "65x64 px would become 260x256 px; at most 256 px a side are allowed; send fit: true"),
        ((8, 8), True, "8x8 px: its shorter side is 8 px, the smallest stage takes 16 px; use a larger picture"),
    ],
)
def test_a_picture_of_a_wrong_size_is_refused_before_it_is_decoded(client: Client, size, fit, message):
    answer = client.post("/v1/jobs", json={"image": b64(png(*size, b"")), "fit": fit})
    assert (answer.status_code, client.error(answer)) == (422, "invalid_request")
    assert message in answer.text


def peak_rss() -> float:
    """MB this process ever had."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def test_more_data_than_the_size_needs_are_not_unpacked(client: Client):
    """64 x 64 px, but 200 MB of data behind them."""
    before = peak_rss()
    data = zlib.compress(bytes(200 << 20), 9)
    answer = client.post("/v1/jobs", json={"image": b64(png(64, 64, data)), "settings": {"sr_64": {"num_steps": 1}}})
    assert answer.status_code in (202, 422)
    assert peak_rss() - before < 50


@pytest.mark.parametrize(
    "path",
    [
        "/v1/jobs/../../etc/passwd",
        "/v1/jobs/%2e%2e/%2e%2e/etc/passwd",
        "/v1/jobs/..%2f..%2fetc%2fpasswd/stages/base_16/0.png",
        "/v1/jobs/x/stages/..%2f..%2f..%2findex.sqlite/0.png",
        "/v1/jobs/{id}/stages/..%2fbase_16/0.png",
        "/v1/jobs/{id}/stages/%2e%2e/0.png",
        "/v1/jobs/{id}/stages/base_16%00/0.png",
        "/v1/jobs/{id}%00/stages/base_16/0.png",
        "/v1/jobs/{id}/stages/base_16/999.png",
        "/v1/jobs/'%20or%201=1--/stages/base_16/0.png",
        "/page.js/../__main__.py",
        "/page/../__main__.py",
        "/%2e%2e/__main__.py",
        "//etc/passwd",
    ],
)
def test_path_traversal_is_not_found(serving: Serving, path: str):
    job = serving.client.run()["id"]
    path = path.replace("{id}", job)
    answer = serving.raw(f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n".encode())
    assert answer.split()[1] == b"404", answer
    for secret in (b"root:", b"import ", b"SQLite"):
        assert secret not in answer


@pytest.mark.parametrize("k", ["-1", "x", "0.5", "9" * 40])
def test_picture_numbers_that_do_not_exist_are_not_found(client: Client, k: str):
    job = client.run()["id"]
    assert client.get(f"/v1/jobs/{job}/stages/base_16/{k}.png").status_code in (404, 422)


@pytest.mark.parametrize(
    "address",
    [
        "http://169.254.169.254/latest/meta-data",
        "https://example.test/a.png",
        "file:///etc/passwd",
        "ftp://127.0.0.1/x",
        "data:text/html;base64,PHNjcmlwdD4=",
        "/etc/passwd",
    ],
)
def test_addresses_are_not_fetched(client: Client, address: str):
    with socket.create_server(("127.0.0.1", 0)) as trap:
        trap.settimeout(0.2)
        for url in (address, f"http://127.0.0.1:{trap.getsockname()[1]}/x.png"):
            answer = client.post("/v1/jobs", json={"image": url})
            assert answer.status_code == 422
            assert client.error(answer) == "invalid_request"
        with pytest.raises(TimeoutError):
            trap.accept()


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


HTML = '<script>alert("x")</script>\n\nevent: finished\ndata: {}\n\r\n"\'&\u2028'


def test_html_and_line_breaks_in_a_prompt_stay_json_on_one_line(client: Client):
    job = client.start(prompts=[HTML])
    assert [name for _, name, _ in client.events(job["id"])].count("finished") == 1
    answer = client.get(job["url"])
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.json()["prompts"] == [HTML]


def test_errors_stay_on_one_line_too(client: Client):
    answer = client.post("/v1/jobs", json={"prompts": ["x"], "until": HTML})
    assert answer.headers["content-type"] == "application/json"
    client.error(answer)


def test_unknown_routes_and_methods_are_json_too(client: Client):
    for method, path, status in (("GET", "/nothing", 404), ("PUT", "/v1/jobs", 405), ("PATCH", "/", 405)):
        answer = client.request(method, path)
        assert answer.status_code == status
        client.error(answer)


def test_the_log_has_no_prompts(serving: Serving, caplog):
    caplog.set_level("INFO")
    serving.client.run(prompts=["a very private prompt"])
    serving.client.post("/v1/jobs", json={"prompts": ["another private one"], "until": "private"})
    until(lambda: "POST /v1/jobs 202" in caplog.text)  # the log is written after the answer
    assert "private" not in caplog.text
