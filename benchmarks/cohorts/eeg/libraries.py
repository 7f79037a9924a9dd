"""The libraries of EEG, which the extra ``eeg`` brings, and which are imported where they are needed."""

from __future__ import annotations

import importlib
import warnings
from typing import Any

from medgraft.errors import ConfigError


def demanded(name: str) -> Any:
    """A module of a library, imported.

    Args:
        name: Such as ``mne_bids``.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its dependencies, about themselves
            return importlib.import_module(name)
    except ImportError as error:
        library = name.partition(".")[0].replace("_", "-")
        raise ConfigError(
            f"EEG is read and written with {library}, which is not installed; install it with: pip install "
            f"'medgraft[eeg]' ({error})"
        ) from error
