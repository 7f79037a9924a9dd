"""Walking folders, and reading one file among thousands."""
