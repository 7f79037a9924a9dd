"""Generators of phantom cohorts in the layouts of real ones."""
