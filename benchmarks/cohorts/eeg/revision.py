"""What identifies the content of a folder of recordings."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from medgraft.benchmarks.cohorts.files.walking import walk
from medgraft.errors import DataError
from medgraft.files.content import file_facts

READ = (".edf", ".bdf", ".vhdr", ".eeg", ".vmrk", ".set", ".fdt", ".tsv", ".json", ".rec", ".lab", ".csv")
"""Endings of what is read, in lower case."""


def revision_of(root: Path, needed: Sequence[str]) -> str:
    """Digest of all recordings, tables and annotations below a folder; those in ``derivatives/`` count too.

    Args:
        root: The folder.
        needed: Files that must be there.

    Raises:
        DataError: One is not.
    """
    for name in needed:
        if not (root / name).exists():
            raise DataError(f"{root} has no {name}; name the folder that has it")
    places = [root, *(root / name for name in ("derivatives",) if (root / name).is_dir())]
    files = [
        os.path.join(here.path, name)
        for place in places
        for here in walk(place)
        for name in here.files
        if name.lower().endswith(READ)
    ]
    return file_facts(sorted(files), root)
