"""One network in a process of its own, for the engines of others: `python -m cascade.serve.on_ray --stage sr_64=4`, or
`--stage base_16.guide=1` for the guide of a stage."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from stages.ask import Ask
from stages.diffusion.samplers import Answer
from stages.memory import is_memory_error

from .lease import Lease

FAILURES = 3  # failed calls in a row after which a network is restarted: a failed GPU does not recover
LOST_S = 300.0  # to an answer: several servers may wait for one network, or for one that starts


class StageReplica:
    """Loads and measures one network, in the thread that will answer: CUDA graphs belong to a thread. stage: the name of its
    host. lease: ends this replica with its owner."""

    def __init__(self, stage: str, *, cascade: str, precision: str, compile_: bool | None, lease: Lease):
        lease.watch()
        import torch

        from cascade.engine.batching import preparing
        from cascade.engine.devices import choose_devices
        from cascade.pipeline import Cascade

        torch.set_flush_denormal(True)
        device = choose_devices("auto")[0]  # a replica sees only its own GPU
        self.host = Cascade.load_host(cascade, stage, device=device, precision=precision)
        self._thread = ThreadPoolExecutor(1)
        self._failures = 0
        prepare, self.buckets = preparing(compile_, on_gpu=device != "cpu")
        self._rows = self._thread.submit(prepare, [self.host]).result()[stage]

    def rows(self) -> int:
        """Rows of a call, as measured."""
        return self._rows

    def check_health(self) -> None:
        """Ray's health check. Raises RuntimeError if only a new process helps."""
        if self._failures >= FAILURES:
            raise RuntimeError(f"the last {self._failures} calls failed")

    async def answer(self, asks: list[Ask], batch: int) -> list[Answer]:
        """The answer to each ask, which is on the CPU, as its answer."""
        try:
            answers = await asyncio.wrap_future(self._thread.submit(self._answer, asks, batch))
        except Exception as error:
            self._failures += not is_memory_error(error)  # after these the engine makes smaller calls
            raise
        self._failures = 0
        return answers

    def _answer(self, asks: list[Ask], batch: int) -> list[Answer]:
        import torch

        with torch.inference_mode():
            return self.host.answer(asks, batch=batch, buckets=self.buckets)


class RemoteStage:
    """A `host.Remote` that asks whichever replica of a stage is free. What is sent is on the CPU: a sampler may be on a GPU where
    another network of its stage stayed here. Raises ConnectionError if the replica is lost."""

    def __init__(self, handle: Any):
        self.handle = handle

    def __call__(self, asks: list[Ask], batch: int) -> list[Answer]:
        from ray.exceptions import RayActorError
        from ray.serve.exceptions import RayServeException

        sent = [ask.to("cpu") for ask in asks]
        try:
            answers = self.handle.answer.remote(sent, batch).result(timeout_s=LOST_S)
        except (RayActorError, RayServeException, TimeoutError) as error:
            raise ConnectionError(f"a replica was lost: {type(error).__name__}") from error
        return [answer.to(ask.query.x.device) for ask, answer in zip(asks, answers, strict=True)]
