"""Earlier name of :mod:`medgraft.adapter.class_prompts`, for code that imports it."""

from medgraft.adapter.class_prompts import ClassAdapter

__all__ = ["ClassAdapter"]
