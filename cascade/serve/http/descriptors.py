"""How many connections the system's limit of open files allows, so that pictures and the index always find a descriptor."""

import resource

WANTED = 8192  # descriptors
RESERVED = 256  # for all that is no connection: libraries and devices, the index, a picture of each worker thread
FEWEST = 16  # connections
CONNECTIONS = 1000


def connections(asked: int | None) -> int:
    """Raises the soft limit, gives what was asked for, by default 1,000 or what the limit leaves. Raises ValueError where that is
    not possible."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(WANTED, RESERVED + (asked or 0))
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    most = soft - RESERVED if soft != resource.RLIM_INFINITY else max(CONNECTIONS, asked or 0)
    if most < (asked or FEWEST):
        raise ValueError(
            f"--connections {asked or FEWEST}: a process may open {soft} files here, {RESERVED} of them are for pictures and "
            f"libraries; raise the limit (ulimit -n {RESERVED + (asked or CONNECTIONS)})"
        )
    return asked or min(CONNECTIONS, most)
