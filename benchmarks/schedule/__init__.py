"""How long cells will take, in which order they start, and how many may."""
