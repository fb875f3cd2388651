"""Shards in, batches out. The leaf of the project: it imports neither stages nor cascade."""
