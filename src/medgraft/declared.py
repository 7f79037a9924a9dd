"""What the installed distributions declare, read again only where one came, went or changed."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from importlib import metadata


@dataclass(frozen=True)
class Declared:
    """An entry point and whose it is.

    Attributes:
        name: Its name.
        target: ``module:object``.
        distribution: Distribution that declares it.
        version: Version of the distribution.
    """

    name: str
    target: str
    distribution: str
    version: str


@dataclass(frozen=True)
class Unreadable:
    """A distribution whose entry points cannot be read.

    Attributes:
        distribution: Its name.
        version: Its version.
        reason: What reading them raised.
    """

    distribution: str
    version: str
    reason: str


_known: dict[str, tuple[object, list[Declared], list[Unreadable]]] = {}
"""Group -> what was declared in it when the installed distributions looked as the first entry says."""


_seen: ContextVar[object] = ContextVar("_seen", default=None)
"""What the installed distributions looked like when a block of :func:`looked_at_once` began; ``None`` outside."""


@contextmanager
def looked_at_once() -> Generator[None]:
    """Inside, the installed distributions are looked at once, for many questions between which none is installed.

    A look takes two milliseconds where a hundred distributions are installed, and a graft asks a dozen times.
    """
    token = _seen.set(_installed())
    try:
        yield
    finally:
        _seen.reset(token)


def declared(group: str) -> tuple[list[Declared], list[Unreadable]]:
    """The entry points of a group, each once, and the distributions that cannot be read; nothing is imported.

    An installation that changes within a process, as in a notebook, is seen, but not inside :func:`looked_at_once`.
    """
    now = _seen.get() or _installed()
    if group not in _known or _known[group][0] != now:
        _known[group] = (now, *_read(group))
    _, entries, unreadable = _known[group]
    return list(entries), list(unreadable)


def canonical(distribution: str) -> str:
    """A distribution's name as package indices compare it.

    Example:
        >>> canonical("Acme_Graft.kit")
        'acme-graft-kit'
    """
    return re.sub(r"[-_.]+", "-", distribution).lower()


def _installed() -> object:
    """What tells a change of the installed distributions; reading all their files takes ten times as long."""
    found: list[object] = [tuple(map(id, sys.meta_path))]
    for place in sys.path:
        try:
            infos = sorted(name for name in os.listdir(place or ".") if name.endswith((".dist-info", ".egg-info")))
        except NotADirectoryError:  # an archive
            found.append((place, _stamp(place)))
            continue
        except OSError:
            continue
        found += [(place, name, _stamp(f"{place or '.'}{os.sep}{name}{os.sep}entry_points.txt")) for name in infos]
    return found


def _stamp(path: str) -> tuple[int, int] | None:
    try:
        facts = os.stat(path)
    except OSError:
        return None
    return facts.st_mtime_ns, facts.st_size


def _read(group: str) -> tuple[list[Declared], list[Unreadable]]:
    try:
        entries, unreadable = list(metadata.entry_points(group=group)), []
    except Exception:  # one damaged entry_points.txt anywhere stops the whole scan
        entries, unreadable = _read_one_by_one(group)
    # Once per distribution: each look parses its metadata, and one distribution declares dozens of entries.
    owners: dict[int, tuple[str, str]] = {}
    found: list[Declared] = []
    for entry in entries:
        if id(entry.dist) not in owners:
            owners[id(entry.dist)] = _name_and_version(entry.dist)
        found.append(Declared(entry.name, entry.value, *owners[id(entry.dist)]))
    return list(dict.fromkeys(found)), unreadable


def _read_one_by_one(group: str) -> tuple[list[metadata.EntryPoint], list[Unreadable]]:
    """The same, leaving out distributions that cannot be read; slower, since each one's metadata is parsed."""
    entries: dict[str, list[metadata.EntryPoint]] = {}
    unreadable: list[Unreadable] = []
    for distribution in metadata.distributions():
        name, version = _name_and_version(distribution)
        if canonical(name) in entries:
            continue  # the first on the path is the one that is imported
        try:
            entries[canonical(name)] = list(distribution.entry_points.select(group=group))
        except Exception as error:
            entries[canonical(name)] = []
            unreadable.append(Unreadable(name, version, f"{type(error).__name__}: {error}"))
    return [entry for several in entries.values() for entry in several], unreadable


def _name_and_version(distribution: metadata.Distribution | None) -> tuple[str, str]:
    """Both as strings; a damaged installation may lack its metadata or parts of it, or hold what is no UTF-8."""
    try:
        facts: dict[str, str] = dict(distribution.metadata.items()) if distribution is not None else {}  # pyright: ignore
    except (UnicodeDecodeError, OSError):
        facts = {}
    return facts.get("Name") or "unknown", facts.get("Version") or "unknown"
