"""What a sweep leaves of itself in its results folder, and how that is shown while it runs."""
