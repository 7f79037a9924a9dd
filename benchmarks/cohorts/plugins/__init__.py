"""Cohorts as plugins, one per file: the options of the phantom, and who writes it."""
