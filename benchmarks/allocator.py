"""How processes that train ask the system for memory.

A training step frees what it allocated, and glibc hands most of that back to the system, which has to clear and map it
again in the next step: a tenth of a step's time on a CPU. Workers keep it, in large pages. The settings are read when
a process starts, so they are given to it by its environment; other C libraries take no notice.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

SETTINGS = {
    "GLIBC_TUNABLES": f"glibc.malloc.mmap_threshold={32 << 20}:glibc.malloc.trim_threshold={1 << 30}",
    "THP_MEM_ALLOC_ENABLE": "1",
}
"""glibc's: 32 MiB is the largest block that may come from what was kept. PyTorch's: large pages for large tensors."""


def keeping_memory(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment with the settings; what is set there already stays as it is.

    Example:
        >>> keeping_memory({"GLIBC_TUNABLES": "glibc.malloc.arena_max=1"})
        {'GLIBC_TUNABLES': 'glibc.malloc.arena_max=1', 'THP_MEM_ALLOC_ENABLE': '1'}
    """
    return {**SETTINGS, **environment}


@contextmanager
def children_keep_memory() -> Iterator[None]:
    """Processes that are started inside get the settings."""
    before = dict(os.environ)
    os.environ.update(keeping_memory(before))
    try:
        yield
    finally:
        for name in SETTINGS.keys() - before.keys():
            del os.environ[name]
