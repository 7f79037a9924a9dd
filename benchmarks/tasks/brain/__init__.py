"""Tasks on volumes and notes of heads."""
