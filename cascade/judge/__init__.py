"""Scores of generated pictures against real ones: each file is one measure, a pure function of tensors.

Features are (n, d) rows of a ruler (a frozen, hashed network), one a picture; pictures are uint8 (b, c, h, w). The
formulas are this project's own, in float64, since the libraries differ in what matters here: one side's N may differ
from the other's unnoticed, KID draws its subsets from torch's global generator and has no error over pictures,
density, coverage and the distance a Laplacian level are missing. Numbers of torch-fidelity are the oracle in tests.
"""
