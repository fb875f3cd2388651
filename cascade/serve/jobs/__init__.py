"""Jobs and their pictures: the log of each, its state, and what is stored on disk."""
