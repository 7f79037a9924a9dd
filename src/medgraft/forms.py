"""Earlier name of :mod:`medgraft.fast.forms`, for code that imports it."""

from medgraft.fast.forms import backward, fast_forms

__all__ = ["backward", "fast_forms"]
