"""Spaces: what x0 stands for, one file each."""
