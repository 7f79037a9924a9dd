"""Imports without the garbage collector, which would look through a million objects of libraries again and again.

A fifth of the time that torch, scikit-learn and their like take to import is spent in collections that free nothing.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module

EVERY_CELL = (
    "medgraft.benchmarks.cell",
    "medgraft.benchmarks.environment",
    "torch._inductor",
    "scipy.stats",
    "sklearn.metrics",
)
"""What every cell imports. An optimizer and deterministic algorithms import torch's compiler, a second and more."""


@contextmanager
def uncollected() -> Iterator[None]:
    """Switches the collector off for the block, and on again if it was on."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def import_for_cells() -> None:
    """Imports what every cell does, and takes it out of the sight of later collections, also of forked workers."""
    with uncollected():
        for name in EVERY_CELL:
            with suppress(ImportError):  # a cell that needs it will say so
                import_module(name)
        gc.freeze()
