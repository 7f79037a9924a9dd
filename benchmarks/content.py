"""The earlier place of :func:`medgraft.files.content.file_facts`, for plugins that import it from here."""

from medgraft.files.content import file_facts

__all__ = ["file_facts"]
