"""HTTP in front of the engine: jobs, server-sent events, held stages, an OpenAI-compatible route. Needs the extra `serve`."""
