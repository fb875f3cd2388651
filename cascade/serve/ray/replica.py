"""A server without a socket: engine, store and routes, in a process that is called by another (`cascade.serve.on_ray`)."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from pathlib import Path
from typing import Any

from starlette.types import Message, Scope

from ..http.limits import Limits
from .lease import Lease

BUFFERED = 16  # ASGI messages between the app and the wire
STORE_S = 8.0  # for the replica that this one replaces to release the store; Ray tries three times


class Replica:
    """Number `number` of the replicas: engine, store and routes in a process of its own. stages: by name, (handle, number
    of replicas) for each network in other processes; rows: batch rows of their calls. lease: ends this replica with its
    owner."""

    def __init__(
        self,
        number: int,
        stages: dict[str, Any],
        *,
        cascade: str,
        store: str,
        limits: Limits,
        store_mb: int,
        keep_h: float,
        max_waiting: int,
        precision: str,
        compile_: bool | None,
        download: bool,
        log_prompts: bool,
        log_json: bool = False,
        rows: dict[str, int],
        lease: Lease,
    ):
        lease.watch()
        import torch

        from cascade.engine.batching import preparing
        from cascade.engine.devices import choose_devices
        from cascade.engine.engine import Engine
        from cascade.manifest import read_manifest
        from cascade.pipeline import Cascade

        from ..api.app import routes
        from ..api.service import Service
        from ..http import logs
        from ..jobs.store import Store
        from .stage_replica import RemoteStage

        folder = Path(store) / f"replica-{number}"
        logs.start(as_json=log_json)
        disk = Store(
            folder,
            max_bytes=store_mb << 20,
            spare_bytes=limits.free_bytes,
            keep_s=keep_h * 3600,
            wait_s=STORE_S,
        )
        torch.set_flush_denormal(True)
        device = choose_devices("auto")[0]  # a replica sees only its own GPU
        model = Cascade.load(cascade, device=device, elsewhere=stages, precision=precision, download=download)
        if model.conditions.text:
            model.conditions.of(prompts=("",))  # load the text encoder now, not during the first request
        prepare, buckets = preparing(compile_, on_gpu=device != "cpu")
        self.engine = Engine(
            model,
            batch=rows,
            elsewhere={name: [RemoteStage(handle)] * num for name, (handle, num) in stages.items()},
            prepare=prepare,
            buckets=buckets,
            max_waiting=max_waiting,
        ).start()
        name, prefix = read_manifest(Path(cascade)).name, f"{number}-"
        self.service = Service(self.engine, disk, name=name, prefix=prefix, limits=limits, log_prompts=log_prompts)
        self.app = routes(self.service)

    def check_health(self) -> None:
        """Ray's health check. Raises RuntimeError if only a new process helps."""
        if message := self.service.what_died:
            raise RuntimeError(message)

    def load(self) -> int:
        """Images that wait. Raises RuntimeError if it accepts no jobs."""
        if self.service.why_not_ready:
            raise RuntimeError(self.service.why_not_ready)
        return self.engine.waiting

    async def answer(self, scope: Scope, body: bytes) -> AsyncGenerator[Message, None]:
        """The messages of a response. If the caller stops listening, the app is notified as if the connection had closed."""
        messages: asyncio.Queue[Message | None] = asyncio.Queue(BUFFERED)
        left = asyncio.Event()
        bodies = [body]

        async def receive() -> Message:
            if bodies:
                return {"type": "http.request", "body": bodies.pop(), "more_body": False}
            await left.wait()
            return {"type": "http.disconnect"}

        async def work() -> None:
            await self.app(scope, receive, messages.put)
            await messages.put(None)

        task = asyncio.create_task(work())
        try:
            while not task.done() or not messages.empty():
                waiting = asyncio.create_task(messages.get())
                await asyncio.wait((waiting, task), return_when=asyncio.FIRST_COMPLETED)
                if not waiting.done():
                    waiting.cancel()
                    break
                message = waiting.result()
                if message is None:
                    break
                yield message
        finally:
            left.set()
            with suppress(asyncio.TimeoutError):
                async with asyncio.timeout(1.0):
                    await asyncio.gather(task, return_exceptions=True)
            task.cancel()

    async def close(self, drain_s: float) -> None:
        """Refuse new jobs and drain the open ones for drain_s."""
        await asyncio.to_thread(self.service.close, drain_s)
