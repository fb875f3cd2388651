"""A world of small scenes whose captions can be checked exactly: drawn by code, read by code, no network."""
