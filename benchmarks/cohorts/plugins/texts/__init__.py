"""Cohorts of chest films with texts as plugins."""
