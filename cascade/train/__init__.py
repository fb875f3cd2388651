"""Trainings as processes: train.py in one or several, batch scripts for SLURM, and the costs of a stage."""
