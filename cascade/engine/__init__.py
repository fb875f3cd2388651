"""The engine: batches the network calls of many requests; decides which asks go next, to which host, in how many rows."""
