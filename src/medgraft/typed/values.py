"""Questions to values that no annotation vouches for: what plugins, files and callers without types hand over."""

from __future__ import annotations

from types import UnionType


def is_a(value: object, kind: type | UnionType | tuple[type, ...]) -> bool:
    """``isinstance(value, kind)`` that tells a type checker nothing.

    A checker would call the question needless where an annotation answers it, and would take the values inside of a
    ``dict`` for unknown.
    """
    return isinstance(value, kind)
