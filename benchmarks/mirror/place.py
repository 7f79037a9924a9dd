"""Where results of a URL lie on this machine, for commands that read folders."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable
from pathlib import Path

from medgraft.benchmarks.mirror.sync import Report, Sync
from medgraft.benchmarks.results.store import safe_name
from medgraft.benchmarks.storage.opening import as_url, is_url, open_storage
from medgraft.files.cache_folder import cache_root

logger = logging.getLogger(__name__)

FOLDER = "shared-results"


def copy_of(url: str) -> Path:
    """The folder for copies of what is at a URL, below the cache folder of this machine."""
    digest = hashlib.sha256(as_url(url).encode()).hexdigest()[:12]
    return cache_root() / FOLDER / f"{safe_name(as_url(url).partition('://')[2])[:60]}-{digest}"


def local_folders(places: Iterable[Path]) -> list[Path]:
    """Folders to read: those that were named, and for each URL a copy that is brought up to date first.

    Raises:
        SharedStorageError: The storage does not answer, or its bucket does not exist.
        ConfigError: The URL names no storage that is known.
    """
    return [_read_from(str(place)) if is_url(place) else place for place in places]


def shown(place: Path) -> str:
    """A place as a person wrote it; ``Path`` has taken a slash from a URL."""
    return as_url(place) if is_url(place) else str(place)


def _read_from(url: str) -> Path:
    folder = copy_of(url)
    folder.mkdir(parents=True, exist_ok=True)
    warn_of(Sync(folder, open_storage(url), copy=True, send=False).run(), as_url(url))
    return folder


def warn_of(report: Report, url: str) -> None:
    """Logs what could not be brought into step."""
    for name, why in report.damaged.items():
        logger.warning("%s of %s is left out: %s", name, url, why)
    for name, why in report.refused.items():
        logger.warning(
            "%s here and at %s are different results of one cell: %s; neither is overwritten", name, url, why
        )
