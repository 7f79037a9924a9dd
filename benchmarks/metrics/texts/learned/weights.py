"""Files of a local model: which ones there are, and a digest that names them without their path."""

from __future__ import annotations

import hashlib
from pathlib import Path

CHUNK = 1 << 20


def digest_of_folder(folder: Path) -> str:
    """Digest of the files directly in a folder, their names and contents, twelve signs of it."""
    digest = hashlib.sha256()
    for path in sorted(each for each in folder.iterdir() if each.is_file()):
        digest.update(path.name.encode() + b"\0")
        with path.open("rb") as handle:
            while part := handle.read(CHUNK):
                digest.update(part)
    return digest.hexdigest()[:12]
