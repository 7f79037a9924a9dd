"""Small phantom cohorts, so that a task of a known cohort is checked without data."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path
from typing import Any

from medgraft.errors import ConfigError
from medgraft.registry import catalogue

# Large enough that every split holds every class, small enough that it is written in seconds.
SMALL: dict[str, dict[str, Any]] = {
    "adni": {"n_subjects": 40, "seed": 3, "spacing": 6.0, "max_visits": 2},
    "adni_visits": {"n_subjects": 110, "seed": 3, "spacing": 6.0, "max_visits": 5},
    "chexpert": {"n_train": 60, "n_valid": 12, "n_test": 24, "n_5x200_per_class": 4, "seed": 3, "size": 64},
    "rsna": {"n_images": 60, "n_pairs": 24, "positive_share": 0.4, "seed": 3, "size": 64},
    "siim": {"n_images": 60, "n_pairs": 24, "positive_share": 0.4, "seed": 3, "size": 64},
    "nih": {"n_images": 60, "n_pairs": 24, "seed": 3, "size": 64},
    "mimic": {"n_images": 60, "seed": 3, "size": 64},
}


@functools.cache
def small_phantom(cohort: str) -> Path:
    """Writes a small phantom of a cohort that the catalogue knows, once per process; it is deleted at its end.

    Raises:
        ConfigError: The catalogue has no phantom of the cohort.
    """
    from medgraft.benchmarks.cohorts import write_phantom

    known = {name: entry for preset in catalogue().presets.values() for name, entry in preset.cohorts.items()}
    entry = known.get(cohort)
    if entry is None or entry.writer not in SMALL:
        raise ConfigError(f"there is no phantom of cohort {cohort!r}; pass the folder of its data (--data PATH)")
    folder = Path(tempfile.mkdtemp(prefix="medgraft-check-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    kept = {key: value for key, value in entry.options.items() if key == "setting"}
    write_phantom(entry.writer, folder / cohort, {**SMALL.get(cohort, SMALL[entry.writer]), **kept}, jobs=1)
    return folder / cohort
