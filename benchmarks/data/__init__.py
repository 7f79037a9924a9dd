"""Readers of real cohorts and generators of phantom ones."""
