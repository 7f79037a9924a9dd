"""Earlier name of :mod:`medgraft.adapter.support_adapter`, for code that imports it."""

from medgraft.adapter.support_adapter import SupportAdapter

__all__ = ["SupportAdapter"]
