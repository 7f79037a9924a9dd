"""Preprocessing of raw volumes: ``medgraft prepare``."""
