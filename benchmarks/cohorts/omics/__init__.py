"""Readers of expression tables."""
