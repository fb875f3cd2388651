"""The parts of guidance: what its answers are compared with, and how often; noise on conditions."""
