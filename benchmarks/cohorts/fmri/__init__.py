"""Readers of resting-state fMRI."""
