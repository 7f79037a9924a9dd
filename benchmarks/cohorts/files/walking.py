"""One walk through a folder for all readers: in one order on every machine, and past what is no raw data.

BIDS (Brain Imaging Data Structure 1.9, "Common principles", folders; and ``.bidsignore``) keeps what was computed from
the raw data in ``derivatives/``, what came before it in ``sourcedata/``, and programs in ``code/``. An image there
often has the name of the raw one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

NOT_RAW = frozenset(("derivatives", "derivative", "sourcedata", "code", "stimuli", "__macosx"))
"""Folders that hold no raw data, in lower case, wherever they lie below the root."""


@dataclass(frozen=True)
class Visited:
    """One folder of a walk.

    Attributes:
        path: The folder.
        inside: The folder relative to the root, ``""`` for the root itself; parts are joined by ``/``.
        folders: Names of the folders in it that the walk goes on to; sorted. Taking one out leaves it out.
        files: Names of the files in it; sorted.
    """

    path: str
    inside: str
    folders: list[str]
    files: list[str]

    def inner(self, name: str) -> str:
        """A name in this folder, relative to the root."""
        return f"{self.inside}/{name}" if self.inside else name


def walk(root: Path, ignored: Callable[[str], bool] = lambda inside: False) -> Iterator[Visited]:
    """Folders of a tree, each before those in it, by name; hidden ones and hidden files are passed over.

    Links to folders are followed, except to one that the walk sees anyway. A folder that may not be read is empty.

    Args:
        root: Where it starts; always visited, whatever it is called.
        ignored: Path relative to the root -> whether the file or folder is passed over.
    """
    home = os.path.realpath(root)
    followed: set[str] = set()
    waiting = [(os.path.abspath(root), "")]
    while waiting:
        folder, inside = waiting.pop()
        here = Visited(folder, inside, [], [])
        for entry in _entries(folder):
            if entry.name.startswith(".") or ignored(here.inner(entry.name)):
                continue
            if not _is_folder(entry):
                here.files.append(entry.name)
            elif not entry.is_symlink() or _leads_elsewhere(entry.path, home, followed):
                here.folders.append(entry.name)
        yield here
        waiting += [(os.path.join(folder, name), here.inner(name)) for name in reversed(here.folders)]


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError:
        return []


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _leads_elsewhere(link: str, home: str, followed: set[str]) -> bool:
    target = os.path.realpath(link)
    inside = os.path.commonpath((target, home))
    if inside in (home, target) or target in followed:  # it is in the tree, or the tree in it
        return False
    followed.add(target)
    return True


def not_raw(inside: str) -> bool:
    """Whether a path names a folder of :data:`NOT_RAW`.

    Example:
        >>> not_raw("derivatives"), not_raw("study/sourcedata"), not_raw("sub-01")
        (True, True, False)
    """
    return inside.rpartition("/")[2].lower() in NOT_RAW


def bids_ignored(root: Path) -> Callable[[str], bool]:
    """What BIDS passes over below a root: :data:`NOT_RAW`, and what ``.bidsignore`` names as ``.gitignore`` would."""
    try:
        lines = (root / ".bidsignore").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    stated = [line for line in map(str.strip, lines) if line and not line.startswith("#")]
    rules = [(not line.startswith("!"), _matcher(line.removeprefix("!"))) for line in stated]

    def ignored(inside: str) -> bool:
        if not_raw(inside):
            return True
        verdict = False
        for leave_out, matches in rules:
            if matches(inside):
                verdict = leave_out
        return verdict

    return ignored


def _matcher(pattern: str) -> Callable[[str], bool]:
    """A pattern of ``.gitignore``: with a slash before its end it starts at the root, else it fits at any depth."""
    parts = pattern.rstrip("/").removeprefix("/").split("/")
    if "/" not in pattern.rstrip("/"):
        return lambda inside: fnmatchcase(inside.rpartition("/")[2], parts[0])
    return lambda inside: _fits(inside.split("/"), parts)


def _fits(names: Sequence[str], parts: Sequence[str]) -> bool:
    if not parts:
        return not names
    if parts[0] == "**":
        return any(_fits(names[k:], parts[1:]) for k in range(len(names) + 1))
    return bool(names) and fnmatchcase(names[0], parts[0]) and _fits(names[1:], parts[1:])
