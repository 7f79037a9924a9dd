"""Folders of trained adapters, their cards, and weights read without running anything in them."""
