"""Fetching a file of MedMNIST: whole and with the right checksum, or not at all."""

from __future__ import annotations

import hashlib
import http.client
import os
import tempfile
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from medgraft.benchmarks.cohorts.medmnist.facts import facts_of
from medgraft.benchmarks.cohorts.medmnist.reading import file_name
from medgraft.errors import ConfigError, DataError

_BLOCK, _TIMEOUT, _TOLD = 1 << 20, 60, 500_000_000


def download(root: Path, name: str, size: int, announce: Callable[[str], None]) -> None:
    """Puts the file of a data set into a folder, unless it is there.

    Args:
        root: The folder; made where it is missing.
        name: Of the data set.
        size: Side of its images.
        announce: Called with a line before and after.

    Raises:
        ConfigError: The package that knows address and checksum is not installed, or the address is no web address.
        DataError: There is no network, the checksum is wrong, or the folder cannot be written.
    """
    path, downloads = Path(root) / file_name(name, size), facts_of(name).downloads
    if path.is_file():
        return
    if size not in downloads:
        raise ConfigError(
            f"--download takes the address and the checksum of {path.name} from the package medmnist; pip install "
            "'medgraft[medmnist]'"
        )
    url, wanted = downloads[size]
    if urlsplit(url).scheme not in ("http", "https"):
        raise ConfigError(f"the address of {path.name} is {url!r}, which is no web address; update medmnist")
    announce(f"downloading {path.name} from {urlsplit(url).hostname} to {root}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-", delete=False) as part:
            try:
                digest, count = _copied(url, part, announce)
                if digest != wanted.lower():
                    raise DataError(
                        f"{path.name} from {url} has the MD5 {digest} and should have {wanted}; try again, or copy it "
                        "from elsewhere"
                    )
                part.close()
                os.chmod(part.name, 0o644)
                os.replace(part.name, path)
            finally:
                Path(part.name).unlink(missing_ok=True)
    except (OSError, http.client.HTTPException, ValueError) as error:
        why = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise DataError(
            f"{path.name} cannot be downloaded from {url} ({why}); fetch it where there is a network and put it into "
            f"{root}"
        ) from error
    announce(f"downloaded {path.name}: {count / 1e6:.1f} MB, checksum right")


def _copied(url: str, out: Any, announce: Callable[[str], None]) -> tuple[str, int]:
    """Writes what is behind an address, and tells of every half gigabyte; its MD5 and bytes."""
    digest, count = hashlib.md5(usedforsecurity=False), 0
    with urllib.request.urlopen(url, timeout=_TIMEOUT) as answer:
        stated = answer.headers.get("Content-Length")
        while block := answer.read(_BLOCK):
            out.write(block)
            digest.update(block)
            if (count + len(block)) // _TOLD > count // _TOLD:
                whole = f" of {int(stated) / 1e9:.1f}" if stated is not None and stated.isdigit() else ""
                announce(f"{(count + len(block)) / 1e9:.1f}{whole} GB")
            count += len(block)
    if stated is not None and stated.isdigit() and count != int(stated):
        raise OSError(f"the connection ended after {count:,} of {int(stated):,} bytes")
    return digest.hexdigest(), count
