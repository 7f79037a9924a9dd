"""Samples that a limit leaves."""

from __future__ import annotations

import numpy as np


def limited(splits: dict[str, np.ndarray], limit: int | None) -> dict[str, np.ndarray]:
    """At most ``limit`` samples ``[n]`` per split, evenly spaced, so that every class keeps its place."""
    if limit is None:
        return splits
    return {
        name: index[np.unique(np.linspace(0, len(index) - 1, min(limit, len(index))).astype(int))]
        for name, index in splits.items()
    }
