"""HTTP routes: request bodies, responses, and the service that does the work."""
