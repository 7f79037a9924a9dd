"""One space of several modalities."""
