"""HTTP layer below the routes: sockets, limits, keys, logging and metrics."""
