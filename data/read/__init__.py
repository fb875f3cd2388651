"""Packed shards to batches, at a position that is a function of the seed and the images seen alone."""
