"""What an adapter says of its options to whoever compares adapters: which one scales it, and which are worth a search.

A class sets ``size_knob = SizeKnob("rank")`` and ``search = {"alpha": (4.0, 8.0, 16.0, 32.0, 64.0)}``. Neither is
needed: a method without a size knob is compared at the size that it has, and one without options to search is tuned
over its training alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SEARCH_VALUES = 5
"""Values that a search tries of each option, the default among them."""


@dataclass(frozen=True)
class SizeKnob:
    """The whole-number option of an adapter that scales its trainable parameters.

    Attributes:
        option: Name of the option; one of a table is ``table.entry``.
        shrinks: More of it means fewer parameters, as of a reduction.
        lowest: Smallest value to try.
        step: Values are multiples of it.
    """

    option: str
    shrinks: bool = False
    lowest: int = 1
    step: int = 1

    def set_in(self, options: Mapping[str, Any], value: int) -> dict[str, Any]:
        """Options of the adapter with the knob at a value.

        Example:
            >>> SizeKnob("options.r").set_in({"method": "lora", "options": {"lora_alpha": 8}}, 4)
            {'method': 'lora', 'options': {'lora_alpha': 8, 'r': 4}}
        """
        table, _, entry = self.option.rpartition(".")
        if not table:
            return {**options, entry: value}
        return {**options, table: {**options.get(table, {}), entry: value}}

    def value_in(self, options: Mapping[str, Any]) -> int | None:
        """What the knob is set to in options of the adapter; ``None`` where they leave it to a default."""
        table, _, entry = self.option.rpartition(".")
        return (options.get(table, {}) if table else options).get(entry)
