"""Generators of expression tables."""
