"""Measures whole jobs of this project against its peers: ``python -m benchmarks.speed``."""
