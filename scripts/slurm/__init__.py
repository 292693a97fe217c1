"""SLURM: batch scripts, their submission, and ranks that srun starts."""
