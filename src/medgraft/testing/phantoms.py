"""Small phantom cohorts, so that a task of a known cohort is checked without data."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

from medgraft.cohort import cohort_class, write_phantom
from medgraft.errors import ConfigError, UnknownNameError


@functools.cache
def small_phantom(cohort: str) -> Path:
    """Writes a small phantom of a cohort that a plugin offers, once per process; it is deleted at its end.

    Raises:
        ConfigError: No plugin offers the cohort.
        DataError: The plugin cannot write it.
    """
    try:
        small = cohort_class(cohort).small
    except UnknownNameError as error:
        raise ConfigError(
            f"there is no phantom of cohort {cohort!r}; pass the folder of its data (--data PATH)"
        ) from error
    folder = Path(tempfile.mkdtemp(prefix="medgraft-check-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    write_phantom(cohort, folder / cohort, small)
    return folder / cohort
