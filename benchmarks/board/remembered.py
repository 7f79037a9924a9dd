"""What a board has computed of a row from its predictions, kept so that the next board of the same files need not.

Intervals of a row take up to seconds, which is much for hundreds of rows. A file per row in the cache folder holds them
under a digest of the row's results and predictions, and of the method; whoever changes either has another digest.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medgraft.benchmarks.metrics.bootstrap import METHOD
from medgraft.benchmarks.metrics.student import Ends
from medgraft.benchmarks.prefix_cache.store import cache_root
from medgraft.benchmarks.results import verified_before
from medgraft.benchmarks.results.writing import write_atomically
from medgraft.benchmarks.statistics.pairs import Measured
from medgraft.errors import MedgraftError

FORMAT = 1


@dataclass(frozen=True)
class Computed:
    """Of one row.

    Attributes:
        intervals: Name of each number -> lower and upper end.
        measured: The primary number with each subject's influence; ``None`` where it is undefined.
    """

    intervals: Mapping[str, Ends]
    measured: Measured | None


def key_of(paths: Sequence[Path]) -> str | None:
    """Digest of a row's results and predictions; ``None`` where one cannot be read."""
    with suppress(MedgraftError, OSError):
        text = "\n".join([METHOD, str(FORMAT), *(verified_before.digest(path) for path in paths)])
        return hashlib.sha256(text.encode()).hexdigest()
    return None


def recall(key: str) -> Computed | None:
    """What was computed of a row; ``None`` where nothing was, or where it cannot be read."""
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        stored = json.loads(_place(key).read_text("utf-8"))
        intervals: dict[str, Ends] = {
            name: (_end(low), _end(high)) for name, (low, high) in stored["intervals"].items()
        }
        of_primary = stored["measured"]
        if of_primary is None:
            return Computed(intervals, None)
        values, influences = (np.array([math.nan if x is None else float(x) for x in each]) for each in of_primary)
        return Computed(intervals, Measured(values, influences))
    return None


def remember(key: str, computed: Computed) -> None:
    """Keeps what was computed of a row; nothing where the cache cannot be written."""
    measured = computed.measured
    text = json.dumps(
        {
            "intervals": {name: list(ends) for name, ends in computed.intervals.items()},
            "measured": None if measured is None else [_plain(measured.values), _plain(measured.influences)],
        },
        allow_nan=False,
    )
    with suppress(OSError):
        place = _place(key)
        place.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(place, lambda handle: handle.write(text.encode()))


def _place(key: str) -> Path:
    return cache_root() / "rows" / f"{key}.json"


def _end(value: Any) -> float | None:
    return None if value is None else float(value)


def _plain(values: np.ndarray) -> list[float | None]:
    return [None if math.isnan(value) else value for value in values.tolist()]
