"""Which files of a folder are read, and a copy of the folder in which they have other bytes."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from os.path import isfile
from pathlib import Path
from typing import Any

from medgraft.typed.values import is_a

LARGEST = 100_000
"""Files of a folder that are linked into a copy; no more, since a check must end."""

_listeners: dict[int, list[str]] = {}
_installed: list[bool] = []


def files_read(root: Path, act: Callable[[], object]) -> list[Path]:
    """Files below ``root`` that ``act`` opens for reading, relative to it, whatever else it does.

    Python reports every file that it opens; what a library opens by C code of its own is not seen.
    """
    if not _installed:
        sys.addaudithook(_heard)  # it cannot be taken out again, and does nothing while nobody listens
        _installed.append(True)
    me = threading.get_ident()
    opened = _listeners.setdefault(me, [])
    try:
        act()
    finally:
        del _listeners[me]
    home = os.path.abspath(root)
    names = dict.fromkeys(map(os.path.abspath, opened))
    return [Path(os.path.relpath(name, home)) for name in names if name.startswith(home + os.sep) and isfile(name)]


def _heard(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and _listeners and is_a(arguments[0], str | bytes | os.PathLike):
        opened = _listeners.get(threading.get_ident())
        if opened is not None:
            opened.append(os.fsdecode(arguments[0]))


@contextmanager
def altered_copy(root: Path, files: Sequence[Path]) -> Generator[Path]:
    """A copy of a folder, deleted at the end, in which some files have other bytes, and sizes and dates are the same.

    The other files are links to the originals. In an altered file every byte of the last tenth is another one: a header
    stays what it was.
    """
    home = Path(tempfile.mkdtemp(prefix="medgraft-altered-")) / root.name
    try:
        count = 0
        for folder, inner, names in os.walk(root):
            here = home / os.path.relpath(folder, root)
            here.mkdir(parents=True, exist_ok=True)
            linked = [name for name in inner if os.path.islink(os.path.join(folder, name))]
            for name in [*names, *linked]:
                count += 1
                if count <= LARGEST:
                    (here / name).symlink_to(os.path.abspath(os.path.join(folder, name)))
        for file in files:
            if (home / file).parent.resolve().is_relative_to(home.resolve()):  # else it is the original behind a link
                _alter(root / file, home / file)
        yield home
    finally:
        shutil.rmtree(home.parent, ignore_errors=True)


def _alter(original: Path, copy: Path) -> None:
    content, facts = bytearray(original.read_bytes()), original.stat()
    start = len(content) - max(1, len(content) // 10)
    content[start:] = bytes(255 - byte for byte in content[start:])
    copy.unlink(missing_ok=True)
    copy.write_bytes(content)
    os.utime(copy, ns=(facts.st_atime_ns, facts.st_mtime_ns))
