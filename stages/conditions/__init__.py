"""Conditions: their config, and samples of the right shapes."""
