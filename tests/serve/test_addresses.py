"""Wrong keys are limited by the client's address."""

import httpx
import pytest

from cascade.serve.http import limits
from cascade.serve.http.connections import listen
from cascade.serve.http.keys import Keys
from cascade.serve.options import proxies_of
from tests.serve.keyed import ALICE, BOB, BOTH
from tests.serve.serving import until


def test_wrong_keys_are_limited_by_address(serve, monkeypatch):
    """Twenty different ones; who was right from there before goes on, others of the address wait, other addresses do not."""
    monkeypatch.setattr(limits.Guesses, "per_s", 5.0)
    serving = serve(keys=Keys(BOTH))

    def ask(client: httpx.Client, key: str) -> int:
        return client.get("/v1/models", headers={"authorization": f"Bearer {key}"}).status_code

    elsewhere = httpx.HTTPTransport(local_address="127.0.0.2")
    with httpx.Client(base_url=serving.url) as here, httpx.Client(base_url=serving.url, transport=elsewhere) as there:
        assert ask(here, ALICE) == 200
        assert [ask(here, "an old key") for _ in range(30)] == [401] * 30  # again and again is one guess
        assert [ask(here, f"wrong {k}") for k in range(19)] == [401] * 19
        answer = here.get("/v1/models", headers={"x-api-key": "wrong once more"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (429, "too_many_wrong_keys")
        assert 1 <= int(answer.headers["retry-after"]) <= 6
        assert [ask(here, key) for key in ("an old key", "wrong 18", ALICE, BOB)] == [401, 401, 200, 429]
        assert [ask(there, key) for key in (BOB, "wrong")] == [200, 401]
        assert here.get("/healthz").status_code == 200
        until(lambda: ask(here, BOB) == 200)


def test_addresses_of_ipv6_are_counted_by_network():
    guesses = limits.Guesses()
    for k in range(guesses.most):
        guesses.tell(f"2001:db8::{k:x}%eth0", f"wrong {k}", None)
    with pytest.raises(limits.Refused):
        guesses.tell("2001:db8::ffff", "another", None)
    guesses.tell("2001:db8:0:1::1", "another", None)
    for k in range(guesses.addresses + 10):
        guesses.tell(f"{k}", "wrong", None)
    assert len(guesses._wrong) <= guesses.addresses


def test_ipv4_clients_of_a_socket_for_both_are_told_apart(serve):
    """Of one that listens on ::. Wrong keys of one do not shut out another, and --trust-proxy knows them."""
    try:
        listen("::", 0).close()
    except ValueError as error:
        pytest.skip(str(error))
    proxies = proxies_of(["127.0.0.9", "::ffff:127.0.1.0/120"])
    assert proxies == ["127.0.0.9", "127.0.1.0/24"]
    serving = serve(keys=Keys(BOTH), host="::", proxies=proxies)

    def ask(source: str, key: str, **headers: str) -> int:
        transport = httpx.HTTPTransport(local_address=source)
        with httpx.Client(base_url=serving.url, transport=transport) as client:
            return client.get("/v1/models", headers={"x-api-key": key} | headers).status_code

    assert [ask("127.0.0.2", f"wrong {k}") for k in range(21)] == [401] * 20 + [429]
    assert ask("127.0.0.3", BOB) == 200
    assert ask("127.0.0.2", BOB) == 429
    assert [ask(each, BOB, **{"x-forwarded-for": "127.0.0.2"}) for each in ("127.0.0.9", "127.0.1.5")] == [429, 429]
    assert ask("127.0.0.9", BOB, **{"x-forwarded-for": "::ffff:192.0.2.1"}) == 200
