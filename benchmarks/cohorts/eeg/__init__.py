"""Recordings of EEG in published layouts: read lazily, filtered and cut into windows, and what plain features say."""
