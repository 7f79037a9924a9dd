"""Where in an image or a volume a graft's decision comes from."""
