"""The launcher ``ray``: cells as tasks of a Ray cluster."""
