"""Pictures from files and to files: grids, single files, shards, each with what made it in its metadata."""
