"""Packed shards to batches, at a position that depends on the seed and the images seen alone."""
