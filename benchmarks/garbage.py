"""Python's collector of garbage in circles, switched off where very many objects are made and none is in a circle."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Switches the collector off for the block, and on again if it was on.

    Its passes over everything that lives are a third of reading ten thousand results, and a fifth of the imports of a
    cell; what no name holds any longer is freed as ever.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
