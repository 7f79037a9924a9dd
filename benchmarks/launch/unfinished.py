"""Checkpoints of cells whose training was ended, in a hidden folder of the results."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

UNFINISHED = ".unfinished"
OLD = 14 * 24 * 3600.0
"""Seconds after which nobody comes back for one."""


def unfinished_folder(root: Path) -> Path:
    """Where the checkpoints of a results folder lie.

    Args:
        root: Results folder.
    """
    return root.absolute() / UNFINISHED


def forget(root: Path, key: str) -> None:
    """Removes what is kept of a cell.

    Args:
        root: Results folder.
        key: Of the cell.
    """
    for path in unfinished_folder(root).glob(f"*{key}-*"):
        path.unlink(missing_ok=True)


def forget_old(root: Path) -> None:
    """Removes what nobody has come back for, and the folder where nothing is left."""
    folder = unfinished_folder(root)
    with suppress(OSError):
        for path in folder.iterdir():
            if time.time() - path.stat().st_mtime > OLD:
                path.unlink()
        folder.rmdir()
