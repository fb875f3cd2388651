"""Whose applications these are, on a cluster that others use too: they end with the process that started them, and no others do.

Ray keeps an application until somebody deletes it, also when the process with the socket was killed. So that process makes an
actor, the owner: Ray ends it with that process, starts it again where it dies alone, and gives its name to nobody else. Every
replica asks it now and then; when it has ended for good, they delete the applications of their cascade.
"""

import logging
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

log = logging.getLogger("cascade.serve")
NAMESPACE = "cascade.serve"  # of owners' names
ASK_EVERY_S = 2.0
SILENCE_S = 30.0  # of an owner that is alive, where the network is slow
NOTICE_S = 5.0  # until Ray knows that a process was killed
LEAVING_S = 60.0  # until the applications of a server that was killed are gone, at most


class Owner:
    """Lives as long as the process that made it."""

    def is_there(self) -> bool:
        return True


@dataclass(frozen=True, kw_only=True)
class Lease:
    """applications: their names, all of one cascade's. It travels to the replicas."""

    owner: Any
    applications: tuple[str, ...]

    def watch(self) -> None:
        """In a replica: from now on it ends with the owner."""
        threading.Thread(target=self._watch, daemon=True, name="lease").start()

    def _watch(self) -> None:
        import ray
        from ray.exceptions import ActorDiedError

        while True:
            try:
                ray.get(self.owner.is_there.remote(), timeout=SILENCE_S)
            except ActorDiedError:
                log.warning("the process with the socket has died; deleting %s", ", ".join(self.applications))
                with suppress(Exception):  # the controller may be starting; again, soon
                    self.end(wait=False)
            except Exception as error:  # Ray has many, and starts it again
                log.info("the owner does not answer: %s", type(error).__name__)
            time.sleep(ASK_EVERY_S)

    def end(self, *, wait: bool) -> None:
        """Deletes the applications, and nothing else on the cluster. Those that are not there are no mistake."""
        from ray import serve

        for name in self.applications:
            serve.delete(name, _blocking=False)
        for name in self.applications if wait else ():
            serve.delete(name)


def take(name: str, applications: tuple[str, ...]) -> Lease:
    """Raises ValueError where somebody else has the name, or an application of such a name."""
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
    """Applications without an owner are those of a server that was killed, which leave, or somebody else's, which do not."""
    from ray import serve

    deadline, is_told = time.monotonic() + LEAVING_S, False
    while there := sorted(serve.status().applications.keys() & set(lease.applications)):
        if time.monotonic() > deadline:
            raise ValueError(f"--name {name}: this cluster has an application {there[0]}; choose another name")
        if not is_told:
            log.warning("waiting until the application %s has ended", there[0])
        is_told = True
        time.sleep(0.5)
