"""From what a person writes to the storage that is meant: a URL, or a folder that machines share."""

from __future__ import annotations

import re
from pathlib import Path

from medgraft.benchmarks.storage.base import Storage
from medgraft.benchmarks.storage.folder import FolderStorage
from medgraft.benchmarks.storage.objects import ObjectStorage
from medgraft.errors import ConfigError

URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+):/{1,2}(?P<rest>.*)", re.DOTALL)
"""One slash too: that is what is left of a URL that somebody took for a path."""

SCHEMES = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs"}
"""Schemes of object storage that is known to let one writer alone create a file."""


def is_url(place: str | Path) -> bool:
    """Whether a place is one of :func:`open_storage` with a scheme, and no folder.

    Example:
        >>> is_url("s3://bucket/sweep"), is_url(Path("s3://bucket/sweep")), is_url("results")
        (True, True, False)
    """
    return URL.fullmatch(str(place)) is not None


def as_url(place: str | Path) -> str:
    """A URL in its one spelling; that of a folder is its absolute path.

    Example:
        >>> as_url(Path("s3://bucket/sweep/")), as_url("gs://bucket")
        ('s3://bucket/sweep', 'gs://bucket')
    """
    match = URL.fullmatch(str(place))
    if match is None:
        return str(Path(place).absolute())
    scheme, rest = match["scheme"].lower(), match["rest"].rstrip("/")
    return f"/{rest.lstrip('/')}" if scheme == "file" else f"{SCHEMES.get(scheme, scheme)}://{rest.lstrip('/')}"


def open_storage(place: str | Path) -> Storage:
    """Storage at a URL (``s3://bucket/folder``, ``gs://bucket/folder``) or in a folder that machines share.

    Nothing is asked of it yet; see :meth:`Storage.check`.

    Raises:
        ConfigError: The scheme is not known, no bucket is named, or a library is missing.
    """
    url = as_url(place)
    scheme = url.partition("://")[0] if "://" in url else ""
    if not scheme:
        return FolderStorage(Path(url))
    if scheme not in SCHEMES:
        raise ConfigError(f"{url}: {scheme}:// is no storage that is known; write s3://, gs:// or a folder")
    return ObjectStorage(url)
