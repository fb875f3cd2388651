"""Behind a proxy: whose pages may do what, links under a path, the block of the documents in a real nginx with a real browser."""

import re
import shlex
from typing import Any

import pytest

from cascade.serve.http.keys import Keys
from cascade.serve.options import hosts_of, origins_of, proxies_of, root_of
from tests.serve.person import ask, ends, sides
from tests.serve.serving import LOOPBACK, ROOT, WAIT_S, Client, Serving, parsed, until

NAME = "pictures.example"
NAMED = LOOPBACK | {NAME}
README = (ROOT / "cascade" / "serve" / "README.md").read_text(encoding="utf-8")
(SECTION,) = re.findall(r"^## Behind a proxy\n(.*?)^## ", README, re.DOTALL | re.MULTILINE)
(BLOCK,) = re.findall(r"^```nginx\n(.*?)^```", SECTION, re.DOTALL | re.MULTILINE)
(COMMAND,) = re.findall(r"^```bash\n(.*?)^```", SECTION, re.DOTALL | re.MULTILINE)
UPSTREAM = "http://127.0.0.1:8000;"
PLAIN = f"location /cascade/ {{ proxy_pass {UPSTREAM.rstrip(';')}/; }}"
NO_PORT = PLAIN.replace("; }", "; proxy_set_header Host $host; }")


def before(server: Serving, block: str, *, taken_off: bool = False) -> str:
    """A block for this server. taken_off: the path is."""
    assert UPSTREAM in block or UPSTREAM.replace(";", "/;") in block
    block = block.replace("127.0.0.1:8000", f"127.0.0.1:{server.port}")
    return block.replace(f":{server.port};", f":{server.port}/;") if taken_off else block


# whose pages


def changed(client: Client, **headers: str) -> int:
    """The status of a request that would change something: 422 where the page may, for what it asks is nonsense."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.post("/v1/jobs", json={"num": "nonsense"}, headers=named).status_code


OWN = [
    ("http://localhost:8000", "localhost:8000"),
    ("http://localhost", "localhost"),
    ("http://localhost", "localhost:80"),
    ("https://localhost", "localhost:443"),
    ("https://localhost", "localhost"),
    ("HTTP://LocalHost", "localhost"),
    ("http://localhost", "LOCALHOST"),
    ("http://localhost.", "localhost"),
    ("http://localhost:8000", "localhost.:8000"),
    ("http://[::1]:8000", "[::1]:8000"),
    ("https://[::1]", "[0:0:0:0:0:0:0:1]:443"),
    ("https://xn--bcher-kva.example", "xn--bcher-kva.example"),
]
FOREIGN = [
    ("http://evil.test", "localhost"),
    ("http://localhost.evil.test", "localhost"),
    ("http://evil.test@localhost", "localhost"),
    ("http://localhost@evil.test", "localhost"),
    ("http://localhost/", "localhost"),
    ("http://localhost:8000", "localhost:8001"),
    ("http://localhost:8000", "localhost"),
    ("http://localhost", "localhost:443"),
    ("http://127.0.0.1", "localhost"),
    ("http://[::1]:8000", "[::1]"),
    ("http://[::1", "[::1]"),
    ("http://localhost:none", "localhost"),
    ("http://", "localhost"),
    ("localhost", "localhost"),
    ("//localhost", "localhost"),
    ("file://localhost", "localhost"),
    ("chrome-extension://localhost", "localhost"),
    ("null", "localhost"),
]


@pytest.fixture(scope="module")
def ours(cascade, tmp_path_factory):
    found = Serving(
        cascade, tmp_path_factory.mktemp("serve") / "store", hosts=NAMED | {"::1", "xn--bcher-kva.example"},
        origins=origins_of([f"https://{NAME.upper()}:8443/"]), root_path="/cascade",
    )  # fmt: skip
    yield found
    found.close()


@pytest.mark.parametrize(("origin", "host"), OWN)
def test_its_own_page_may(ours: Serving, origin: str, host: str):
    assert changed(ours.client, origin=origin, host=host) == 422
    for site in ("cross-site", "same-site"):  # the browser knows better
        assert changed(ours.client, origin=origin, host=host, sec_fetch_site=site) == 403


@pytest.mark.parametrize(("origin", "host"), FOREIGN)
def test_pages_of_other_sites_may_not(ours: Serving, origin: str, host: str):
    for site in ("none", "cross-site", "same-site"):
        assert changed(ours.client, origin=origin, host=host, sec_fetch_site=site) == 403
    forwarded = {
        "x_forwarded_host": origin.partition("://")[2],
        "forwarded": f"host={origin}",
        "x_forwarded_proto": "https",
    }
    assert changed(ours.client, origin=origin, host=host, **forwarded) == 403
    assert (
        changed(ours.client, origin=origin, host=host, sec_fetch_site="same-origin") == 422
    )  # its own, says the browser


@pytest.mark.parametrize("method", ["POST", "DELETE", "PUT", "PATCH", "OPTIONS"])
def test_every_method_that_may_change_something(ours: Serving, method: str):
    evil = {"origin": "http://evil.test"}
    for path in ("/v1/jobs", "/v1/jobs/x", "/cascade/v1/jobs", "/", "/nowhere"):
        assert ours.client.request(method, path, headers=evil).status_code == 403
    assert ours.client.get("/v1/jobs", headers=evil).status_code == 200


def test_who_is_no_browser_may(ours: Serving):
    assert changed(ours.client) == 422
    assert changed(ours.client, sec_fetch_site="none") == 422
    assert changed(ours.client, sec_fetch_site="cross-site") == 403  # a form of an old browser, without Origin


def test_an_allowed_origin_may_and_no_other(ours: Serving):
    assert changed(ours.client, origin=f"https://{NAME}:8443") == 422
    assert changed(ours.client, origin=f"https://{NAME}:8443", sec_fetch_site="cross-site") == 422
    for other in (f"https://{NAME}", f"http://{NAME}:8443", f"https://x.{NAME}:8443", f"https://{NAME}:8443.evil.test"):
        assert changed(ours.client, origin=other) == 403


def test_the_refusal_names_both_values_and_the_fix(ours: Serving):
    answer = ours.client.post("/v1/jobs", json={}, headers={"origin": f"http://{NAME}:8080", "host": NAME})
    assert (answer.status_code, ours.client.error(answer)) == (403, "foreign_origin")
    message = answer.json()["error"]["message"]
    assert f"Origin says 'http://{NAME}:8080', Host says '{NAME}'" in message
    assert "proxy_set_header Host $http_host" in message
    assert message.endswith(f"--allow-origin http://{NAME}:8080")
    answer = ours.client.post("/v1/jobs", json={}, headers={"origin": "null"})
    assert "--allow-origin" not in answer.json()["error"]["message"]  # which cannot be allowed
    answer = ours.client.post("/v1/jobs", json={}, headers={"origin": "http://" + "x" * 5000})
    assert len(answer.json()["error"]["message"]) < 1000
    answer = ours.client.get("/", headers={"host": "other.example"})
    assert (answer.status_code, ours.client.error(answer)) == (421, "wrong_host")
    assert "'other.example'" in answer.json()["error"]["message"]
    assert "--allow-host" in answer.json()["error"]["message"]


@pytest.mark.parametrize("host", ["localhost.", "LOCALHOST:80", "[0:0::1]:8000", NAME.upper(), f"{NAME}.:443"])
def test_names_in_any_form_are_answered(ours: Serving, host: str):
    assert ours.client.get("/v1/models", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("host", ["", "evil.test", "localhost@evil.test", "localhost/x", "[::1", "localhost:none", "."])
def test_other_names_are_not(ours: Serving, host: str):
    assert ours.client.get("/v1/models", headers={"host": host}).status_code == 421


@pytest.mark.parametrize("said", ["null", "*", NAME, f"{NAME}:8080", f"http://{NAME}/page", "ftp://a", "https://", ""])
def test_an_origin_that_is_none_is_a_mistake(said: str):
    with pytest.raises(ValueError, match=r"--allow-origin .*: write scheme, host and port"):
        origins_of([said])


@pytest.mark.parametrize(
    "said", ["/v1", "v1/", "/docs", "/v1/jobs", "/v1/jobs/x", "/a b", "/a/../b", "/a?b", "https://a/b"]
)
def test_a_root_path_that_is_none_is_a_mistake(said: str):
    with pytest.raises(ValueError, match=r"--root-path .*for instance /cascade"):
        root_of(said)


def test_options_in_other_words():
    assert [root_of(said) for said in ("", "//", "cascade", "/cascade/", "/a/b.c")] == [
        "",
        "",
        "/cascade",
        "/cascade",
        "/a/b.c",
    ]
    found = hosts_of("127.0.0.1", ["Bücher.example.", "::1", "[::0001]", "a:8000"])
    assert found == {"localhost", "127.0.0.1", "::1", "xn--bcher-kva.example", "a"}
    for said in ("", "http://a", "a/b", "a b"):
        with pytest.raises(ValueError, match=r"--allow-host .* is no name of a host"):
            hosts_of("127.0.0.1", [said])
    assert proxies_of(["10.0.0.0/8", "::1"]) == ["10.0.0.0/8", "::1"]
    with pytest.raises(ValueError, match="--trust-proxy 'nginx': write an address"):
        proxies_of(["nginx"])


def test_forwarded_headers_are_read_only_where_a_proxy_is_trusted(serve, tmp_path):
    says = {"x-forwarded-proto": "https", "x-forwarded-for": "192.0.2.7"}
    for proxies, scheme in (((), "http"), (("127.0.0.1",), "https"), (("192.0.2.0/24",), "http")):
        server = serve(folder=tmp_path / "-".join(proxies).replace("/", "-") / "store", proxies=proxies)
        assert f"curl -s {scheme}://127.0.0.1:{server.port}/v1/jobs" in server.client.get("/docs", headers=says).text
        server.close()


# links under a path


def links(said: Any) -> list[str]:
    """Every address in what the server says."""
    if isinstance(said, dict):
        return [link for each in said.values() for link in links(each)]
    if isinstance(said, list | tuple):
        return [link for each in said for link in links(each)]
    return [said] if isinstance(said, str) and "/v1/" in said else []


@pytest.mark.parametrize("prefix", ["", "/cascade"])
def test_links_are_under_the_path_whether_a_proxy_takes_it_off_or_not(ours: Serving, prefix: str):
    client = Client(base_url=f"{ours.url}{prefix}", timeout=WAIT_S)
    root = ours.client  # a link begins at the root of the host
    held = client.start(num=2, until="base_16")
    assert ours.client.finish(held["id"]) == "held"
    told = client.events(held["id"])
    whole = [each["url"] for _, name, data in told if name == "stage_finished" for each in data["pictures"]]
    assert len(whole) == 2
    refined = root.post(f"{held['url']}/refine", json={"pick": [1]}).json()
    said = [held, told, refined, client.get(f"/v1/jobs/{held['id']}").json(), client.get("/v1/jobs").json()]
    assert all(link.startswith(f"/cascade/v1/jobs/{each}") for each in (held["id"],) for link in links(said[0:2]))
    assert all(link.startswith("/cascade/v1/jobs/") for link in links(said))
    assert len(links(said)) > 10
    assert {root.get(link).status_code for link in whole} == {200}
    assert root.get(held["url"]).json()["state"] == "held"
    with root.stream("GET", refined["events"]) as answer:
        assert [name for _, name, _ in parsed(answer.iter_lines())][-1] == "finished"
    assert root.get(root.get(refined["url"]).json()["stages"][0]["urls"][0]).content.startswith(b"\x89PNG")
    assert root.delete(refined["url"]).status_code == 204
    assert client.get("/openapi.json").json()["servers"] == [{"url": "/cascade"}]
    for page in ("/docs", "/"):
        found = re.findall(r'(?:href|src)="([^"#]+)"', client.get(page).text)
        assert [
            link for link in found if link.startswith("/") or ("://" in link and not link.startswith("data:"))
        ] == []
    client.close()


def test_without_its_last_slash_the_path_leads_to_the_page(ours: Serving):
    """Relative addresses would be wrong there; the host stays out of it, for a proxy may know it by another name."""
    answer = ours.client.get("/cascade")
    assert (answer.status_code, answer.headers["location"]) == (308, "/cascade/")
    assert ours.client.get("/cascade", follow_redirects=True).text == ours.client.get("/").text
    assert ours.client.get("/cascades").status_code == 404
    assert ours.client.get("/v1/jobs/").status_code == 404
    assert ours.client.get("/docs/").status_code == 404


def test_without_a_path_links_begin_with_the_api(client: Client):
    job = client.run()
    assert {link.partition(job["id"])[0] for link in links(job)} == {"/v1/jobs/"}
    assert "servers" not in client.get("/openapi.json").json()


# a real nginx


def through(page, root: str) -> None:
    """What a person does, and that every address that was asked for is below `root`."""
    ask(page, "red heart", 2, hold=True)
    ends(page, "held")
    until(lambda: sides(page) == [16, 16])
    page.click(".tile[data-k='1'] .pick")
    page.click("#refine")
    ends(page, "finished")
    until(lambda: sides(page) == [64])
    page.click(".open")
    until(lambda: page.eval_on_selector("#large-picture", "img => img.naturalWidth") == 64)
    page.keyboard.press("Escape")
    until(lambda: page.locator("#history img").count() >= 2)
    page.reload()
    ends(page, "finished")
    until(lambda: sides(page) == [64])
    asked = page.evaluate("performance.getEntriesByType('resource').map(each => each.name)")
    saved = page.eval_on_selector(".tile .save", "link => link.href")
    assert [each for each in (*asked, saved) if not each.startswith((root, "data:", "blob:"))] == []
    assert len(asked) > 4
    page.click("header a")
    page.wait_for_selector(".docs h2")
    schema = page.eval_on_selector("a[href='openapi.json']", "link => fetch(link.href).then(answer => answer.json())")
    assert "/v1/jobs" in schema["paths"]
    page.click("text=The page")
    page.wait_for_selector("#ask:not([hidden])")
    assert page.url == root


@pytest.mark.matrix
def test_the_block_and_the_command_of_the_documents(child, nginx, visit):
    """As they stand, but for the ports."""
    options = shlex.split(COMMAND)[3:]
    server = child(*options)
    assert BLOCK.count("127.0.0.1:8000") == 1
    proxy = nginx(BLOCK.replace("127.0.0.1:8000", server.url.removeprefix("http://")))
    root = f"http://{NAME}:{proxy.port}/cascade/"
    page = visit(root)
    assert not page.evaluate("isSecureContext")  # so the browser says no Sec-Fetch-Site
    through(page, root)
    client = Client(base_url=proxy.url, headers={"host": f"{NAME}:{proxy.port}"}, timeout=WAIT_S)
    job = client.post("/cascade/v1/jobs", json={"prompts": ["red heart"]}).json()
    with client.stream("GET", job["events"]) as answer:
        told = list(parsed(answer.iter_lines()))
    assert [name for _, name, _ in told].count("stage_finished") == 2
    assert told[-1][1] == "finished"
    assert client.get(told[-2][2]["pictures"][0]["url"]).content.startswith(b"\x89PNG")
    page.goto(f"http://localhost:{proxy.port}/cascade")  # nginx adds the slash
    page.wait_for_selector("#ask:not([hidden])")
    client.close()


@pytest.mark.parametrize(
    ("block", "taken_off", "root_path", "name"),
    [
        (BLOCK, True, "/cascade", NAME),
        (BLOCK, True, "", NAME),
        (PLAIN, False, "", "localhost"),
        (NO_PORT, False, "/cascade", "localhost"),
    ],
    ids=["path taken off", "path taken off and not known", "nothing but proxy_pass", "port dropped"],
)
def test_other_ways_to_write_it(serve, nginx, visit, block: str, taken_off: bool, root_path: str, name: str):
    """On localhost the browser says Sec-Fetch-Site, whatever becomes of Host."""
    server = serve(hosts=NAMED, root_path=root_path)
    root = f"http://{name}:{nginx(before(server, block, taken_off=taken_off)).port}/cascade/"
    through(visit(root), root)


def test_where_the_port_is_dropped_the_page_says_what_helps(serve, nginx, visit, said):
    server = serve(hosts=NAMED)
    proxy = nginx(before(server, NO_PORT))
    page = visit(f"http://{NAME}:{proxy.port}/cascade/")
    ask(page, num=1)
    page.wait_for_selector("#error:not([hidden])")
    told = page.inner_text("#error")
    assert f"Origin says 'http://{NAME}:{proxy.port}', Host says '{NAME}'" in told
    found = re.search(r"--allow-origin (\S+)$", told)
    assert found
    assert all("403" in line for line in said)
    said.clear()
    server.app.origins = origins_of([found[1]])  # as if it had been started so
    ask(page, num=1)
    ends(page, "finished")


def test_a_foreign_page_makes_nothing_through_a_proxy(serve, nginx, visit, said):
    """With and without Sec-Fetch-Site, which plain http beyond loopback lacks."""
    server = serve(hosts=NAMED, root_path="/cascade")
    proxy = nginx(before(server, BLOCK), "location /evil { default_type text/html; return 200 '<p>evil'; }")
    made = "url => fetch(url, {method: 'POST', mode: 'no-cors', body: '{\"prompts\": []}'}).then(() => 'sent', () => 'not sent')"
    for num, (evil, name) in enumerate(((f"evil.{NAME}", NAME), ("127.0.0.1", "localhost"), (NAME, "localhost")), 1):
        page = visit(f"http://{evil}:{proxy.port}/evil", ready="p")
        page.evaluate(made, f"http://{name}:{proxy.port}/cascade/v1/jobs")
        refused = re.search(r'code="foreign_origin"} (\d+)', server.client.get("/metrics").text)
        assert refused
        assert int(refused[1]) == num
    assert server.client.get("/v1/jobs").json()["jobs"] == []
    said.clear()  # the browser's own lines about refusals


def test_two_servers_of_one_name_keep_their_keys_apart(serve, nginx, visit, said):
    server = serve(hosts=NAMED, keys=Keys({"someone": "k" * 20}))
    block = before(server, BLOCK, taken_off=True)
    proxy = nginx(block, block.replace("/cascade/", "/other/"))
    page = visit(f"http://{NAME}:{proxy.port}/cascade/", ready="#key-form:not([hidden])")
    page.fill("#key", "k" * 20)
    page.keyboard.press("Enter")
    page.wait_for_selector("#ask:not([hidden])")
    other = page.context.new_page()
    other.goto(f"http://{NAME}:{proxy.port}/other/")
    other.wait_for_selector("#key-form:not([hidden])")
    other.fill("#key", "not the right key")
    other.keyboard.press("Enter")
    other.wait_for_selector("#error:not([hidden])")
    assert page.is_hidden("#key-form")
    page.reload()
    page.wait_for_selector("#ask:not([hidden])")
    assert all("401" in line for line in said)
    said.clear()
