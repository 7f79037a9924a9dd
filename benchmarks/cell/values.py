"""Values that go into a result, and samples that a limit leaves."""

from __future__ import annotations

from typing import Any

import numpy as np


def limited(splits: dict[str, np.ndarray], limit: int | None) -> dict[str, np.ndarray]:
    """At most ``limit`` samples ``[n]`` per split, evenly spaced, so that every class keeps its place."""
    if limit is None:
        return splits
    return {
        name: index[np.unique(np.linspace(0, len(index) - 1, min(limit, len(index))).astype(int))]
        for name, index in splits.items()
    }


def json_safe(value: Any) -> Any:
    """Plain Python values of what numpy and pydantic give."""
    if isinstance(value, dict):
        return {str(k): json_safe(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [json_safe(v) for v in value]
    return value.item() if isinstance(value, np.generic) else value
