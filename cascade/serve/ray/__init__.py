"""A server in several processes, on one machine or more, with Ray Serve."""
