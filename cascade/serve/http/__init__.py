"""Below the routes: sockets, limits, keys, log and metrics."""
