"""What several adapters share; imported by adapters alone."""
