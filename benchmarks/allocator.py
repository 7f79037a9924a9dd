"""How processes that train ask the system for memory.

A training step frees what it allocated, and glibc hands most of that back to the system, which has to clear and map it
again in the next step: a tenth of a step's time on a CPU. Workers keep it, in large pages. The settings are read when
a process starts, so they are given to it by its environment; other C libraries take no notice.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

VARIABLE = "GLIBC_TUNABLES"
SETTINGS = {"hugetlb": 1, "mmap_threshold": 32 << 20, "trim_threshold": 1 << 30, "top_pad": 64 << 20}
"""Large pages where the system offers them; 32 MiB is the largest block that glibc lets come from what was kept."""


def keeping_memory(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment with the settings; one that has settings of its own stays as it is.

    Example:
        >>> keeping_memory({"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"})
        {'GLIBC_TUNABLES': 'glibc.malloc.hugetlb=0'}
        >>> keeping_memory({})["GLIBC_TUNABLES"].split(":")[0]
        'glibc.malloc.hugetlb=1'
    """
    settings = ":".join(f"glibc.malloc.{name}={value}" for name, value in SETTINGS.items())
    return {VARIABLE: settings, **environment}


@contextmanager
def children_keep_memory() -> Iterator[None]:
    """Processes that are started inside get the settings."""
    before = dict(os.environ)
    os.environ.update(keeping_memory(before))
    try:
        yield
    finally:
        if VARIABLE not in before:
            del os.environ[VARIABLE]
