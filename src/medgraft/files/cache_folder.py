"""Where things are kept that can be made again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_root() -> Path:
    """``$MEDGRAFT_CACHE``, else ``medgraft`` under the user's cache folder."""
    if folder := os.environ.get("MEDGRAFT_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "medgraft"
