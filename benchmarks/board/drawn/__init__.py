"""Figures that are drawn from results."""
