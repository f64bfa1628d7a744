"""Tests on a real SLURM: a controller, four nodes on this machine, and thousands that exist on paper only."""
