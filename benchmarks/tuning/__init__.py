"""Tuning: which values are tried, by what they are judged, and what of it is kept."""
