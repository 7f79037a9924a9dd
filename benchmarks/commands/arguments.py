"""What commands share of their options: lists with commas, ranges of seeds, ``NAME=PATH``; imports nothing heavy."""

from __future__ import annotations

from typing import Annotated

import typer

from medgraft.errors import ConfigError

Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]

MOST_SEEDS = 1_000_000
"""Longest list of seeds that is ever written out."""


def listed(text: str | None, what: str = "") -> list[str] | None:
    """Parts of a comma-separated text; ``None`` where there is none.

    Args:
        text: The text.
        what: Where it stands, for the error.

    Raises:
        ConfigError: A part is empty.
    """
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise ConfigError(f"{f'{what} ' if what else ''}{text!r} has an empty item; name something between the commas")
    return parts


def listed_encoders(text: str | None, what: str = "") -> list[str] | None:
    """The same for encoders, whose names may hold commas themselves.

    Example:
        >>> listed_encoders("inflate3d:slices=8,window=3:phantom_chest,phantom_brain")
        ['inflate3d:slices=8,window=3:phantom_chest', 'phantom_brain']
    """
    names: list[str] = []
    for part in listed(text, what) or []:
        if names and "=" in part.partition(":")[0].partition("@")[0]:
            names[-1] += f",{part}"
        else:
            names.append(part)
    return None if text is None else names


def parse_seeds(text: str | None, what: str = "--seeds") -> list[int] | None:
    """``0,1,2`` or ``0-4``, or both mixed.

    Args:
        text: The text; ``None`` where none was given.
        what: Where it stands, for the error.

    Raises:
        ConfigError: A part is no number or range, runs backwards, or there are more than :data:`MOST_SEEDS`.

    Example:
        >>> parse_seeds("0,3-5")
        [0, 3, 4, 5]
    """
    if text is None:
        return None
    seeds: list[int] = []
    for part in listed(text, what) or []:
        low, dash, high = part.partition("-")
        if not all(end.isascii() and end.isdigit() and len(end) < 20 for end in ((low, high) if dash else (low,))):
            raise ConfigError(f"{what} {text!r}: {part!r} is neither a number nor a range; write 0,1,2 or 0-4")
        first, last = int(low), int(high or low)
        if last < first:
            raise ConfigError(f"{what} {text!r}: {part!r} runs backwards; write {last}-{first}")
        if len(seeds) + last - first >= MOST_SEEDS:
            raise ConfigError(f"{what} {text!r}: that is more than {MOST_SEEDS:,} seeds; ask for fewer")
        seeds += range(first, last + 1)
    return list(dict.fromkeys(seeds))


def parse_data(items: list[str] | None) -> dict[str, str] | None:
    """``NAME=PATH`` items as a mapping."""
    return _pairs(items, "--data", "NAME=PATH, for example adni=/data/ADNI")


def parse_match(items: list[str] | None) -> dict[str, str] | None:
    """``THEIRS=OURS`` items as a mapping."""
    return _pairs(items, "--match", "THEIRS=OURS, for example covid=COVID-19")


def _pairs(items: list[str] | None, option: str, form: str) -> dict[str, str] | None:
    if not items:
        return None
    pairs = {}
    for item in items:
        name, sign, value = item.partition("=")
        if not (name and sign and value):
            raise ConfigError(f"{option} {item!r} is not of the form {form}")
        pairs[name] = value
    return pairs
