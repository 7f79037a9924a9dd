"""Trains a graft on cached rows: the loop, phases, and the choice of the head."""
