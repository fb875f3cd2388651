"""Where data sets lie: folders, addresses, commands; what is remote is fetched into a cache and checked."""
