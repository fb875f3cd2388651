"""The page's server: what it answers, to whom, and what it never says."""

import io
import json

import httpx
import pytest
from PIL import Image

ALL = ("/who", "/next", "/vote", "/undo")


def test_nothing_that_names_a_side_leaves(start):
    """Of all answers of a whole vote: bytes, addresses and headers."""
    voting = start()
    answers = [voting.client.get(path) for path in ("/", "/page.css", "/page.js")]
    for choice in ("left", "tie", "right") * 2:
        shown = voting.post("/next", voter="ann")
        answers += [shown, *(voting.client.get(f"/pictures/{name}") for name in shown.json()["pictures"])]
        answers.append(voting.post("/vote", voter="ann", ballot=shown.json()["ballot"], choice=choice))
    assert answers[-1].json()["ballot"] is None
    for each in answers:
        assert each.status_code == 200
        told = each.content + str(each.headers).encode() + str(each.url).encode()
        assert not any(word in told for word in (b"alpha", b"beta", b"secret", b"tEXt", b"eXIf"))
    pictures = {each.url.path for each in answers if "/pictures/" in each.url.path}
    assert len(pictures) == 12


def test_a_picture_is_the_file_s_pixels(start, folders):
    voting = start("--ask", "caption", sides=("alpha",))
    shown = voting.post("/next", voter="ann").json()
    image = Image.open(io.BytesIO(voting.client.get(f"/pictures/{shown['pictures'][0]}").content))
    number = shown["caption"].removeprefix("caption ")
    assert image.tobytes() == Image.open(folders / "alpha" / f"secret-{number}.png").tobytes()
    assert image.info == {}


@pytest.mark.parametrize("path", ALL)
def test_without_the_token_nothing_is_told(shared, path):
    for given in ("", "Bearer", "Bearer wrong", f"Basic {shared.token}", "Bearer \u00e4".encode("latin1")):
        answer = shared.client.post(path, json={"voter": "ann"}, headers={"authorization": given})
        assert answer.status_code == 401
    assert shared.client.get(path).status_code == 405


def test_other_hosts_and_other_sites_are_refused(shared):
    for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "10.0.0.1"):
        for path in ("/", "/pictures/x"):
            assert shared.client.get(path, headers={"host": host}).status_code == 421
    port = shared.url.rpartition(":")[2]
    assert shared.client.get("/", headers={"host": f"localhost:{port}"}).status_code == 200
    for headers in ({"origin": "http://evil.example"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"}):
        assert shared.post("/next", headers, voter="ann").status_code == 403
    assert shared.post("/next", {"origin": shared.url}, voter="ann").status_code == 200


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 422),
        (b"[]", 422),
        (b"{", 422),
        (b"\xff", 422),
        (b"[" * 4000, 422),
        (b'{"a": "' + b"x" * 5000 + b'"}', 413),
    ],
)
def test_a_body_that_is_none(shared, body, status):
    answer = shared.client.post("/vote", content=body, headers={"authorization": f"Bearer {shared.token}"})
    assert answer.status_code == status
    assert "\n" not in answer.json()["error"]


def test_votes_that_are_none_are_not_counted(start, folders):
    voting = start()
    shown = voting.post("/next", voter="ann").json()
    for fields in ({"choice": "both"}, {"choice": None}, {"voter": ""}, {"voter": 5}, {"voter": "a\nb"}):
        answer = voting.post("/vote", **({"voter": "ann", "ballot": shown["ballot"], "choice": "left"} | fields))
        assert answer.status_code == 422
    assert (
        "voted on already" in voting.post("/vote", voter="ann", ballot="0-1/secret-0", choice="left").json()["notice"]
    )
    assert voting.post("/next", voter="ann").json() == shown
    assert len((folders / "votes.jsonl").read_text().splitlines()) == 1


def test_two_tabs_of_a_voter_count_once(start, folders):
    voting = start()
    ballot = voting.post("/next", voter="ann").json()["ballot"]
    first, second = (voting.post("/vote", voter="ann", ballot=ballot, choice=each).json() for each in ("left", "right"))
    assert "notice" in second
    assert second["ballot"] == first["ballot"]
    assert len((folders / "votes.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize("path", ["x", "secret-0.png", "..%2f..%2falpha%2fsecret-0.png", "0" * 32])
def test_only_opaque_names_are_pictures(shared, path):
    assert shared.client.get(f"/pictures/{path}").status_code == 404


def test_a_picture_that_is_gone_is_told_and_its_vote_stays_open(start, folders):
    voting = start()
    shown = voting.post("/next", voter="ann").json()
    for folder in ("alpha", "beta"):
        for path in (folders / folder).glob("*.png"):
            path.unlink()
    answer = voting.client.get(f"/pictures/{shown['pictures'][0]}")
    assert answer.status_code >= 400
    assert "secret" not in answer.text


def test_the_page_keeps_to_itself(shared):
    headers = shared.client.get("/").headers
    assert "default-src 'self'" in headers["content-security-policy"]
    assert headers["referrer-policy"] == "no-referrer"


def test_it_listens_on_loopback_only(shared):
    port = int(shared.url.rpartition(":")[2])
    with open("/proc/net/tcp") as table:
        listening = {line.split()[1] for line in table if line.split()[3] == "0A"}
    assert f"0100007F:{port:04X}" in listening
    assert f"00000000:{port:04X}" not in listening


def test_killed_at_any_time_the_votes_stay(start, folders):
    voting = start()
    voting.vote("ann", "left")
    voting.vote("ann", "tie")
    voting.close()
    with pytest.raises(httpx.HTTPError):
        httpx.get(voting.url)
    lines = [json.loads(line) for line in (folders / "votes.jsonl").read_text().splitlines()]
    assert [line["choice"] for line in lines[1:]] == ["left", "tie"]
    again = start()
    assert again.post("/next", voter="ann").json()["done"] == 2
    assert again.post("/next", voter="bob").json()["done"] == 0
    again.vote("bob", "left")
    assert again.end()[0] == "3 votes on 3 of 6 ballots"
