"""Pictures from and to files: grids, single files and shards, with metadata that say how each picture was made."""
