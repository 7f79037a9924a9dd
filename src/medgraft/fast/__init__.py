"""Forms of computation that are exact and save time, and nothing else."""
