"""Predictions with grafts that a sweep has kept."""
