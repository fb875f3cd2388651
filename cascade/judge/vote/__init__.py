"""Votes of people on pictures: which is better, real or generated, does it show the caption.

A side is a folder of pictures, a cascade or a server's store. A ballot is what a voter is shown at once: two pictures of a pair,
or one. A vote is a line of the votes file. Sides reach the browser as pictures without a name: what is left and what comes
first is a hash of seed, voter and ballot.
"""
