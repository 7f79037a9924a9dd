"""Results as a board holds them, of which there may be a hundred thousand."""
