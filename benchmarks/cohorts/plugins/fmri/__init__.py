"""Cohorts of functional MRI."""
