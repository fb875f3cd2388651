"""Clients with keys of their own."""

from tests.serve.serving import WAIT_S, Client, Serving

ALICE, BOB, CAROL = "alice-0123456789abcdef", "bob-0123456789abcdefgh", "carol-0123456789abcdef"
BOTH = {"alice": ALICE, "bob": BOB}
CALL_S = 0.02
LONG = {"base_16": {"num_steps": 100}, "sr_64": {"num_steps": 2}}


def of(serving: Serving, key: str) -> Client:
    return Client(base_url=serving.url, timeout=WAIT_S, headers={"authorization": f"Bearer {key}"})
