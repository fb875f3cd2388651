"""Pictures that are uploaded: bombs, small files that need much work, wrong sizes, addresses instead of pictures."""

import io
import json
import socket
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from cascade.serve.api import app, bodies
from cascade.serve.http.limits import Limits
from tests.data import bombs as small
from tests.serve.bodies import JSON, png, tiny_png
from tests.serve.serving import Client, b64


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

    def counted(content, **options):
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        time.sleep(0.1)
        at_once -= 1
        return decode(content, **options)

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
