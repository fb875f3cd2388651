"""Pictures to webdataset shards and their index: `python -m data.pack SRC DST`."""
