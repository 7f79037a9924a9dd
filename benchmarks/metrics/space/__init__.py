"""Metrics of a space of several modalities."""
