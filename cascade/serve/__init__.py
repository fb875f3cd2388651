"""HTTP server of a cascade: jobs, server-sent events, held stages, an OpenAI-compatible route. Needs the extra `serve`."""
