"""The mathematics: pure torch, one coordinate (sigma); no network, no files, no choice of device."""
