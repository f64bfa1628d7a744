"""Run folders and what starts in them: launching here, SLURM, chains of stages, status, the doctor."""
