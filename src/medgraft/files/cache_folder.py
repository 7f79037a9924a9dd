"""Where things are kept that can be made again."""

from __future__ import annotations

import os
from pathlib import Path

from medgraft.errors import ConfigError


def cache_root() -> Path:
    """``$MEDGRAFT_CACHE``, else ``medgraft`` under the user's cache folder.

    Raises:
        ConfigError: The variable names a URL.
    """
    if folder := os.environ.get("MEDGRAFT_CACHE"):
        if "://" in folder:
            raise ConfigError(
                f"MEDGRAFT_CACHE is {folder}, and must be a folder of this machine; storage that machines share is "
                "named by MEDGRAFT_SHARED_CACHE or --shared-cache"
            )
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "medgraft"
