"""Trainings as jobs: train.py in one process or several, under SLURM, and what a stage will cost."""
