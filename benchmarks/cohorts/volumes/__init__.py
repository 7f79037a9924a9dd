"""Volumes from files: values, axes and place."""
