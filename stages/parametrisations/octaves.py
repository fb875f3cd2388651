"""The octave bands of THE resize. The mathematics of bands takes any linear resize; this is the one that pictures have."""

from data.resize import reduced, upsample

from ..diffusion.bands import Bands


def octaves(num: int) -> Bands:
    """num bands, finest first."""
    return Bands(num=num, shrink=reduced, grow=upsample)
