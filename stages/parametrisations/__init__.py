"""Configs of the parametrisations, one file each; their mathematics is in stages/diffusion/."""
