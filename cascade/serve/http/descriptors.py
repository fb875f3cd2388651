"""How many connections the limit of open files allows, so that pictures and the index always find a descriptor."""

import resource

WANTED = 8192  # descriptors, if the hard limit allows
RESERVED = 256  # for everything else: libraries, devices, the index, a picture per worker thread
FEWEST = 16  # connections
CONNECTIONS = 1000


def connections(asked: int | None) -> int:
    """Raise the soft limit of open files and return the number of connections: `asked`, by default 1,000 or what the limit
    allows. Raises ValueError if the limit is too low."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    required = max(WANTED, RESERVED + (asked or 0))
    if soft != resource.RLIM_INFINITY and soft < required:
        soft = required if hard == resource.RLIM_INFINITY else min(required, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    most = soft - RESERVED if soft != resource.RLIM_INFINITY else max(CONNECTIONS, asked or 0)
    if most < (asked or FEWEST):
        raise ValueError(
            f"--connections {asked or FEWEST}: a process may open {soft} files here, {RESERVED} of them are for pictures and "
            f"libraries; raise the limit (ulimit -n {RESERVED + (asked or CONNECTIONS)})"
        )
    return asked or min(CONNECTIONS, most)
