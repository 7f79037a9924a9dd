"""Starts cells in processes of their own and collects their results."""
