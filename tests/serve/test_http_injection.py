"""Paths that leave the store, HTML and line breaks in prompts; prompts stay out of the log."""

import pytest

from tests.serve.serving import Client, Serving, until

OUTSIDE = "/v1/jobs/../../../../etc/passwd"


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


def test_the_log_has_no_prompts(serving: Serving, caplog):
    caplog.set_level("INFO")
    serving.client.run(prompts=["a very private prompt"])
    serving.client.post("/v1/jobs", json={"prompts": ["another private one"], "until": "private"})
    until(lambda: "POST /v1/jobs 202" in caplog.text)  # the log is written after the answer
    assert "private" not in caplog.text
