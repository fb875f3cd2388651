"""What is asked for again and again: pages of the history, answers that are as they were, pictures that no cache keeps."""

import base64
import gzip
import http.client
import io
import json

import pytest
from PIL import Image

from cascade.serve.http.limits import Limits
from tests.serve.serving import FEW, Client, Serving, b64

ONE = {"until": "base_16", "settings": {"base_16": {"num_steps": 1}}}


def test_the_history_has_pages_that_new_jobs_do_not_move(serve):
    client = serve(limits=Limits(open_jobs=100)).client
    made = [client.start(**ONE)["id"] for _ in range(8)]
    found, before = [], ""
    for expected in (3, 3, 2):
        page = client.get("/v1/jobs", params={"limit": 3, "before": before}).json()
        assert len(page["jobs"]) == expected
        found += [job["id"] for job in page["jobs"]]
        before = page["next"]
        client.start(**ONE)
    assert before is None
    assert found == made[::-1]
    assert client.get("/v1/jobs", params={"limit": 11}).json()["next"] is None
    assert len(client.get("/v1/jobs", params={"limit": 10}).json()["jobs"]) == 10


@pytest.mark.parametrize("before", ["x", "12", "nan:a", "1.5:", ":a"])
def test_a_page_behind_nothing_is_refused(client: Client, before: str):
    answer = client.get("/v1/jobs", params={"before": before})
    assert (answer.status_code, client.error(answer)) == (422, "invalid_request")


def test_what_is_as_it_was_is_not_sent_again(client: Client):
    job = client.run()
    for path in ("/v1/jobs", job["url"], "/v1/models"):
        tag = client.get(path).headers["etag"]
        answer = client.get(path, headers={"if-none-match": f'"x", {tag}'})
        assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", tag)
    tag = client.get("/v1/jobs").headers["etag"]
    client.run()
    assert client.get("/v1/jobs", headers={"if-none-match": tag}).status_code == 200


def raw(server: Serving, path: str, accepts: str) -> tuple[http.client.HTTPResponse, bytes]:
    """Unpacked by nobody."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("GET", path, headers={"accept-encoding": accepts} if accepts else {})
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer, content


def test_json_is_packed_for_who_reads_that(serving: Serving):
    for _ in range(4):
        serving.client.run()
    for accepts, packed in (("", False), ("gzip", True), ("br, gzip;q=0.5", True), ("gzip;q=0, br", False)):
        answer, content = raw(serving, "/v1/jobs", accepts)
        assert (answer.headers["content-encoding"] == "gzip") == packed, accepts
        assert answer.headers["vary"] == "accept-encoding"
        whole = gzip.decompress(content) if packed else content
        assert json.loads(whole)["jobs"]
        assert not packed or len(content) < len(whole) / 3


def test_no_cache_keeps_a_picture(client: Client):
    job = client.run()
    url = job["stages"][1]["urls"][0]
    answer = client.get(url)
    assert answer.headers["cache-control"] == "no-store"
    known = {"if-none-match": answer.headers["etag"]}
    assert client.get(url, headers=known).status_code == 304
    assert client.delete(f"{job['url']}/pictures").status_code == 204
    assert client.get(url, headers=known).status_code == 410


@pytest.mark.parametrize("how", ["lines", "windows", "data"])
def test_base64_with_line_breaks_is_read(client: Client, how: str):
    """As `base64 photo.png` prints it."""
    content = io.BytesIO()
    Image.effect_noise((40, 24), 60).convert("RGB").save(content, "PNG")
    text = base64.encodebytes(content.getvalue()).decode()
    assert text.count("\n") > 10
    image = {"lines": text, "windows": text.replace("\n", "\r\n"), "data": f"data:image/png;base64,{text}"}[how]
    pictures = []
    for each in (image, b64(content.getvalue())):
        said = client.run(prompts=[], image=each, settings={"sr_64": FEW["sr_64"]})
        assert said["state"] == "finished"
        pictures.append(client.get(said["stages"][0]["urls"][0]).headers["etag"])
    wrong = client.post("/v1/jobs", json={"image": "a b*c"})
    assert (wrong.status_code, client.error(wrong)) == (422, "invalid_request")
