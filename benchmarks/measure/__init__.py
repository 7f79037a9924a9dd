"""Costs of a graft, and what a result records about the machine."""
