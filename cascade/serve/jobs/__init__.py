"""Jobs at the server: their event logs, states and storage on disk."""
