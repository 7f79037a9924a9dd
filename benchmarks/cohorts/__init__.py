"""Readers of real cohorts as people have them on disk."""
