"""Two rows of a board against each other, in sentences."""
