"""The mathematics: pure torch, one coordinate (sigma), no network, no file, no device of its own."""
