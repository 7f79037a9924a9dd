"""Measurements of the harness itself: leaks, coverage of intervals, what grafts hold to."""
