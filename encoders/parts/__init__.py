"""What several sources of encoders share; imported by encoders alone."""
