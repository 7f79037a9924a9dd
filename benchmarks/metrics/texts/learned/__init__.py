"""Scores of texts by trained models whose weights are in a local folder; without them they are left out, never zero."""
