"""Cohorts of EEG."""
