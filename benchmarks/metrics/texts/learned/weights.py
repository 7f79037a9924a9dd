"""Files of a local model: which ones there are, and a digest that names them without their path."""

from __future__ import annotations

import hashlib
from pathlib import Path

CHUNK = 1 << 20


def digest_of_folder(folder: Path) -> str:
    """Digest of the files in a folder and below it, their relative names and contents, twelve signs of it."""
    digest = hashlib.sha256()
    for path in sorted(each for each in folder.rglob("*") if each.is_file()):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
        with path.open("rb") as handle:
            while part := handle.read(CHUNK):
                digest.update(part)
    return digest.hexdigest()[:12]
