"""Streams of a job's events, and settings of jobs that take long."""

import contextlib

from tests.serve.serving import Client, parsed

CALL_S = 0.05
LONG = {"base_16": {"num_steps": 100}, "sr_64": {"num_steps": 2}}  # 5 s and more on a slowed cascade


@contextlib.contextmanager
def streaming(client: Client, job: str):
    with client.stream("GET", f"/v1/jobs/{job}/events") as answer:
        yield parsed(answer.iter_lines())
