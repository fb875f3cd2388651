"""The HTTP routes: what clients send, what they get to read, and what happens in between."""
