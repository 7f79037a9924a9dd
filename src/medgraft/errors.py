"""Errors that a person can act on: each names the thing, the value and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, names: Iterable[str]) -> str:
    """The known names that are most like one, case aside, as the end of a question; empty where none is.

    Example:
        >>> nearest("LORA", ["lora", "vpt"])
        'lora'
    """
    by_folded: dict[str, str] = {}
    for each in sorted(names):
        by_folded.setdefault(each.casefold(), each)
    near = difflib.get_close_matches(name.casefold(), by_folded, n=3, cutoff=0.5)
    return " or ".join(by_folded[each] for each in near)


class MedgraftError(Exception):
    """Base of every error that medgraft raises on purpose; the command line prints it as one sentence, exit code 2."""


class ConfigError(MedgraftError, ValueError):
    """A configuration value is unknown, out of range or contradicts another."""


class UnknownNameError(ConfigError):
    """A name is in no registry."""

    def __init__(self, kind: str, name: str, known: Iterable[str], remedy: str = "") -> None:
        """Builds the sentence with the nearest known names.

        Args:
            kind: What was looked up, in the singular: ``"adapter"``.
            name: The name that was asked for.
            known: Every name that would have been accepted.
            remedy: An extra sentence, for example how to install what is missing.
        """
        known = sorted(known)
        near = nearest(name, known)
        hint = f"did you mean {near}?" if near else f"known: {', '.join(known) or 'none'}."
        super().__init__(" ".join(part for part in (f"unknown {kind} {name!r}; {hint}", remedy) if part))


class PluginError(MedgraftError):
    """A plugin could not be loaded, or is not what its entry point promises."""


class DataError(MedgraftError):
    """A data folder, table or file is missing or is not in the layout that its reader expects.

    Attributes:
        reason: What is wrong, in a few words without the name of the file or a number of its own, so that the same
            flaw of many files can be counted; empty where nobody counts.
    """

    def __init__(self, message: str = "", reason: str = "") -> None:
        """Builds the error from its sentence and the words to count it by."""
        super().__init__(message)
        self.reason = reason


class CheckpointError(MedgraftError):
    """A checkpoint is unreadable, incomplete, for another model, or fails its checksum."""


class IncompatibleError(MedgraftError):
    """An adapter, an encoder and a task do not fit together; the message says why."""


class UnreachedError(IncompatibleError):
    """An adapter sits where the encoder never calls it, so that its parameters there would train nothing."""


class MergeError(ConfigError):
    """Adapters cannot be folded into the encoder's weights without changing what it returns."""
