"""The command ``medgraft`` and what it shows on a terminal."""
