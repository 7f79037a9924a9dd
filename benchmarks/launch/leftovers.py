"""Clears what killed launchers have left in a results folder, and nothing that may still be in use.

Several machines may share the folder, and a process number says nothing about another machine's processes. Folders of
work and temporary files therefore carry a mark of the machine; those of another one are cleared after a day.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from contextlib import suppress
from pathlib import Path

from medgraft.benchmarks.launch.unfinished import UNFINISHED
from medgraft.benchmarks.mirror.units import ARRIVING
from medgraft.benchmarks.results.writing import machine_mark

OWNER = "machine"
OLD = 24 * 3600.0

TEMPORARY = re.compile(
    r"\.[\w.-]+\.(?:jsonl?|npz|log|parquet|safetensors)-(?:(?P<machine>[0-9a-f]{8})-(?P<process>\d+)-)?\w+"
)
"""Name of a file that is being written, see :func:`medgraft.benchmarks.results.writing.write_atomically`; older
versions told no machine and no process."""


def claim(work: Path) -> None:
    """Makes a launcher's folder of work, with the mark of this machine in it.

    Raises:
        OSError: It cannot be made.
    """
    work.mkdir(parents=True, exist_ok=True)
    if not (work / OWNER).exists():
        (work / OWNER).write_text(machine_mark())


def clear_leftovers(root: Path) -> None:
    """Removes folders of work and temporary files of launchers that were killed.

    Args:
        root: Results folder.
    """
    for folder in root.glob(".work-*"):
        with suppress(OSError):
            owner = folder / OWNER
            machine = owner.read_text() if owner.is_file() else machine_mark()
            if _is_left(folder, machine, folder.name.split("-")[1]):
                shutil.rmtree(folder, ignore_errors=True)
    for parent, folders, names in os.walk(root):
        for name in folders:
            if name.startswith(ARRIVING) and time.time() - (Path(parent) / name).lstat().st_mtime > OLD:
                shutil.rmtree(Path(parent) / name, ignore_errors=True)
        folders[:] = [name for name in folders if not name.startswith(".") or name == UNFINISHED]
        for name in names:
            if (match := TEMPORARY.fullmatch(name)) is not None:
                with suppress(OSError):
                    path = Path(parent) / name
                    if _is_left(path, match["machine"] or "", match["process"] or ""):
                        path.unlink()


def _is_left(path: Path, machine: str, process: str) -> bool:
    """Whether nobody can be writing there any more."""
    if machine == machine_mark():
        return not _alive(process)
    return time.time() - path.lstat().st_mtime > OLD


def _alive(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except (OSError, ValueError, OverflowError):
        return True  # of another user, or no number: not ours to clear
    return True
