"""When a replica says that it must be replaced, without Ray, which asks it (tests/serve/test_ray.py)."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import pytest

from cascade.engine.batching import random_ask
from cascade.serve.ray import stage_replica
from cascade.serve.ray.replica import Replica
from cascade.serve.ray.stage_replica import StageReplica
from stages.diffusion.samplers import Query
from tests.serve.serving import SHIPPED, Serving, until

FREE = SimpleNamespace(watch=lambda: None)  # a lease that never ends


def replica_of(served: Serving) -> Replica:
    """With the threads of a server, which are started already."""
    found = Replica.__new__(Replica)
    found.service, found.engine = served.service, served.engine
    return found


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("what", ["engine", "writer"])
def test_a_server_is_unhealthy_when_a_thread_of_it_has_died(serve: Callable[..., Serving], what: str):
    served = serve()
    replica = replica_of(served)
    replica.check_health()
    if what == "engine":
        served.engine.tick = None
    else:
        served.service.writer._queue.put("nobody", "no entry")
    until(lambda: served.service.why_not_ready)
    with pytest.raises(RuntimeError, match=f"a thread has died: {what}"):
        replica.check_health()


def test_a_server_that_leaves_is_healthy(serve: Callable[..., Serving]):
    served = serve()
    served.service.close()
    assert served.service.why_not_ready == "shutting down"
    replica_of(served).check_health()


def test_a_network_is_unhealthy_when_it_answers_nothing_any_more():
    """What a request has wrong, or memory that does not suffice, is no reason."""
    stage = StageReplica("base_16", cascade=str(SHIPPED), precision="fp32", compile_=False, lease=FREE)
    host = stage.host
    good = random_ask(host, 2)
    bad = replace(good, query=Query(good.query.x[:, :1], good.query.sigma))

    async def answered(ask, times: int, kind: type[Exception]) -> None:
        for _ in range(times):
            with pytest.raises(kind):
                await stage.answer([ask], 4)

    async def test() -> None:
        await answered(bad, stage_replica.FAILURES - 1, RuntimeError)
        stage.check_health()
        assert (await stage.answer([good], 4))[0].x0_hat.shape == good.query.x.shape
        await answered(bad, stage_replica.FAILURES - 1, RuntimeError)
        stage.check_health()

        def full(*_, **__):
            raise MemoryError

        stage.host = SimpleNamespace(answer=full)
        await answered(good, stage_replica.FAILURES, MemoryError)
        stage.check_health()
        stage.host = host
        await answered(bad, 1, RuntimeError)
        with pytest.raises(RuntimeError, match=f"the last {stage_replica.FAILURES} calls failed"):
            stage.check_health()

    asyncio.run(test())
