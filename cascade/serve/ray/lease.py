"""Ties applications on a shared Ray cluster to the process that started them: they end with it, and no others do.

Ray keeps an application until it is deleted, even if the process with the socket was killed. So that process creates an
actor, the owner: Ray ends it with that process, restarts it if it dies alone, and gives its name to nobody else. Every
replica polls the owner; when it has ended for good, they delete the applications of their cascade.
"""

import logging
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

log = logging.getLogger("cascade.serve")
NAMESPACE = "cascade.serve"  # of the owners' names
ASK_EVERY_S = 2.0
SILENCE_S = 30.0  # that a live owner may take to answer on a slow network
NOTICE_S = 5.0  # until Ray notices that a process was killed
LEAVING_S = 60.0  # longest time until the applications of a killed server are gone


class Owner:
    """An actor that lives as long as the process that created it."""

    def is_there(self) -> bool:
        """True; the call fails if the owner has ended."""
        return True


@dataclass(frozen=True, kw_only=True)
class Lease:
    """An owner and the names of the applications of its cascade. It is sent to the replicas."""

    owner: Any
    applications: tuple[str, ...]

    def watch(self) -> None:
        """In a replica: poll the owner from a thread, and delete the applications when it has ended."""
        threading.Thread(target=self._watch, daemon=True, name="lease").start()

    def _watch(self) -> None:
        import ray
        from ray.exceptions import ActorDiedError

        while True:
            try:
                ray.get(self.owner.is_there.remote(), timeout=SILENCE_S)
            except ActorDiedError:
                log.warning("the process with the socket has died; deleting %s", ", ".join(self.applications))
                with suppress(Exception):  # the controller may be starting; tried again soon
                    self.end(wait=False)
            except Exception as error:  # Ray raises many types, and restarts the owner
                log.info("the owner does not answer: %s", type(error).__name__)
            time.sleep(ASK_EVERY_S)

    def end(self, *, wait: bool) -> None:
        """Delete the applications, and nothing else on the cluster; those that do not exist are ignored."""
        from ray import serve

        for name in self.applications:
            serve.delete(name, _blocking=False)
        for name in self.applications if wait else ():
            serve.delete(name)


def take(name: str, applications: tuple[str, ...]) -> Lease:
    """Create the owner. Raises ValueError if its name, or that of an application, is taken."""
    lease = Lease(owner=_owner(name), applications=applications)
    _wait_until_free(name, lease)
    return lease


def _owner(name: str) -> Any:
    import ray
    from ray.exceptions import RayActorError

    deadline = time.monotonic() + NOTICE_S
    while True:
        try:
            kind: Any = ray.remote(Owner)
            owner = kind.options(name=name, namespace=NAMESPACE, num_cpus=0, max_restarts=-1).remote()
            ray.get(owner.is_there.remote())
            return owner
        except (ValueError, RayActorError):
            if time.monotonic() > deadline:
                raise ValueError(
                    f"--name {name}: a cascade of this name is served on this cluster; choose another"
                ) from None
        time.sleep(0.5)


def _wait_until_free(name: str, lease: Lease) -> None:
    """Wait for applications without an owner: those of a server that was killed end by themselves. Raises ValueError for
    others, which do not."""
    from ray import serve

    deadline, is_told = time.monotonic() + LEAVING_S, False
    while present := sorted(serve.status().applications.keys() & set(lease.applications)):
        if time.monotonic() > deadline:
            raise ValueError(f"--name {name}: this cluster has an application {present[0]}; choose another name")
        if not is_told:
            log.warning("waiting until the application %s has ended", present[0])
        is_told = True
        time.sleep(0.5)
