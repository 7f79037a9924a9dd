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

FORMAT = 2


@dataclass(frozen=True)
class Computed:
    """Of one row.

    Attributes:
        intervals: Name of each number -> lower and upper end.
        measured: The primary number with each subject's influence; ``None`` where it is undefined.
        few: Classes with too few test subjects for their intervals to hold, and how many there are.
        subjects: Digest of the test samples, see :func:`medgraft.benchmarks.statistics.evidence.subjects_digest`.
    """

    intervals: Mapping[str, Ends]
    measured: Measured | None
    few: Mapping[str, int]
    subjects: str


def key_of(paths: Sequence[Path], digests: Mapping[Path, str]) -> str | None:
    """Digest of a row's results and predictions; ``None`` where one is missing or cannot be read.

    Args:
        paths: Of the results.
        digests: Those of them that were made already, see :func:`medgraft.benchmarks.results.verified_before.digest`.
    """
    with suppress(MedgraftError, OSError):
        of_each = [digests.get(path) or verified_before.digest(path) for path in paths]
        return hashlib.sha256("\n".join([METHOD, str(FORMAT), *of_each]).encode()).hexdigest()
    return None


def recall(key: str) -> Computed | None:
    """What was computed of a row; ``None`` where nothing was, or where it cannot be read."""
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        stored = json.loads(_place(key).read_text("utf-8"))
        intervals: dict[str, Ends] = {
            name: (_end(low), _end(high)) for name, (low, high) in stored["intervals"].items()
        }
        of_primary, measured = stored["measured"], None
        if of_primary is not None:
            values, influences = (np.array([math.nan if x is None else float(x) for x in each]) for each in of_primary)
            measured = Measured(values, influences)
        few = {str(name): int(count) for name, count in stored["few"].items()}
        return Computed(intervals, measured, few, str(stored["subjects"]))
    return None


def remember(key: str, computed: Computed) -> None:
    """Keeps what was computed of a row; nothing where the cache cannot be written."""
    measured = computed.measured
    text = json.dumps(
        {
            "intervals": {name: list(ends) for name, ends in computed.intervals.items()},
            "measured": None if measured is None else [_plain(measured.values), _plain(measured.influences)],
            "few": dict(computed.few),
            "subjects": computed.subjects,
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
