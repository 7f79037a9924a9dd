"""Commands that read results and answer in the terminal: ``compare``."""
