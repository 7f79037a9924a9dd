"""Scripts that trained the embedded encoders."""
