"""Where data sets lie: folders, addresses, commands. Remote shards are fetched into a cache and checked."""
