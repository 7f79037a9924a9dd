"""The launcher ``slurm``: cells as arrays of jobs of a cluster."""
