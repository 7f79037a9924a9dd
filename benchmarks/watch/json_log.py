"""``--json-logs``: a file of JSON lines beside each result, for what collects logs.

A line has ``time`` (ISO 8601, UTC), ``level``, ``event`` (``started``, ``step``, ``log``, ``ended``), ``message``, the
cell (``cell``, ``task``, ``encoder``, ``adapter``, ``seed``) and what else the event tells.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from medgraft.benchmarks.results.result import CellResult
from medgraft.benchmarks.results.writing import write_atomically
from medgraft.benchmarks.watch.cell_events import Event, facts_of

SUFFIX = ".log.jsonl"


def log_lines(events: Sequence[Event], result: CellResult) -> str:
    """The events of a cell as JSON lines."""
    cell = facts_of(result)
    lines = []
    for event in events:
        when = datetime.fromtimestamp(event.time, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        level = logging.getLevelName(event.level)
        entry = {"time": when, "level": level, "event": event.name, "message": event.message, **cell, **event.facts}
        lines.append(json.dumps(entry, allow_nan=False, default=str))
    return "".join(f"{line}\n" for line in lines)


def write_log(path: Path, events: Sequence[Event], result: CellResult) -> None:
    """Writes the log of a cell beside its result, in place of one of an earlier run.

    Args:
        path: Of the result.
        events: What happened.
        result: How the cell ended.

    Raises:
        OSError: It cannot be written.
    """
    text = log_lines(events, result)
    write_atomically(path.with_suffix(SUFFIX), lambda handle: handle.write(text.encode()))
