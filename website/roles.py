"""An extension of griffe: docstrings as the site shows them, Sphinx's roles as code and examples as sessions."""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":\w+:(`+)(?:~|\.+)?([^`]+)(`+)")


class Roles(griffe.Extension):
    """Takes Sphinx's roles off docstrings (``:class:`~medgraft.Site```), and calls an ``Example:`` by griffe's name."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        """Called for every object that is read."""
        if obj.docstring is not None:
            text = ROLE.sub(r"\1\2\3", obj.docstring.value)
            obj.docstring.value = re.sub(r"^( *)Example:$", r"\1Examples:", text, flags=re.M)
