"""Sweeps of any size with cells that are made up, to measure what the harness itself costs."""
