"""Earlier name of :mod:`medgraft.class_prompts`, for code that imports it."""

from medgraft.class_prompts import ClassAdapter

__all__ = ["ClassAdapter"]
